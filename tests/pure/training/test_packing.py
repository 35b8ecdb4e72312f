"""Drawings in one file: unpacked they are the same, and what is there is kept."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.training.fake_data import CONCEPTS, SIZE, write_fake_data
from training.packing import pack, unpack
from training.sources import STYLES
from training.sprites import Pixels, Sprites


def render(bitmap: bytes, size: int) -> Pixels:
    image = Image.open(io.BytesIO(bitmap)).convert("RGBA").resize((size, size))
    return np.asarray(image).copy()


def published(drawing: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(drawing)).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_is_unpacked_is_what_was_packed(tmp_path: Path) -> None:
    data, style = write_fake_data(tmp_path / "data"), STYLES[1]
    (data / "licenses").mkdir()
    (data / "licenses/notice.txt").write_text("free")
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder/config.json").write_text("{}")
    sprites = Sprites(data)
    bitmaps = {label: published(sprites.drawing(label, style)) for label in CONCEPTS}
    bitmaps["owl"] = bitmaps["fox"]  # not what its drawing was made of: it is stored as pixels
    pack(data, tmp_path / "packed.zip", {style: bitmaps}, render)
    for _ in range(2):  # the second time everything is there
        unpack(tmp_path / "packed.zip", tmp_path / "out", render, tmp_path / "encoder")
        again = Sprites(tmp_path / "out")
        assert (again.size, again.styles) == (SIZE, sprites.styles)
        for name in sprites.styles:
            assert again.labels(name) == sprites.labels(name)
            for label in CONCEPTS:
                np.testing.assert_array_equal(
                    again.drawing(label, name), sprites.drawing(label, name)
                )
    assert (tmp_path / "out/licenses/notice.txt").read_text() == "free"
    assert (tmp_path / "out/emojibase.json").read_text() == (data / "emojibase.json").read_text()
    assert (tmp_path / "out/text_encoder/config.json").exists()
