"""All drawings in one file of some 14 MiB, to train on another machine: ``python -m training.prepare --pack FILE``.

A zip archive, lossless: unpacked, every drawing has the same bytes.

    index.json             size and sources of the drawings, as in ``sprites/index.json``
    emojibase.json         as ``training.prepare`` wrote it
    licenses/              the notices of all sources
    STYLE/ROW.webp         a drawing as lossless WebP; its pixels are premultiplied
    STYLE/ROW.source.webp  a drawing as its source published it, where that is a bitmap: smaller, rendered again

The text encoder is not in it: it is taken from the model directory in ``weights/``, which travels with the code.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
from PIL import Image

from training.sprites import Pixels, Sprites, SpriteWriter

Render = Callable[[bytes, int], Pixels]
"""A published bitmap and a side in pixels -> its drawing."""

_METHOD = 2  # effort of the compressor: more takes ten times as long for a tenth less


def pack(data: Path, file: Path, published: dict[str, dict[str, bytes]], render: Render) -> None:
    """Write the drawings in ``data`` and what belongs to them to ``file``.

    Args:
        data: folder filled by :mod:`training.prepare`.
        file: the archive to write.
        published: style -> label -> bitmap, of the styles whose source publishes bitmaps.
        render: makes a drawing of such a bitmap.
    """
    sprites = Sprites(data)
    index = json.loads((data / "sprites/index.json").read_text(encoding="utf-8"))
    with ZipFile(file, "w", ZIP_STORED) as archive:
        archive.writestr("index.json", json.dumps(index, ensure_ascii=False), ZIP_DEFLATED)
        for path in _companions(data):
            archive.write(path, path.relative_to(data).as_posix(), ZIP_DEFLATED)
        for style in sprites.styles:
            bitmaps = published.get(style, {})
            for row, label in enumerate(sprites.labels(style)):
                drawing = sprites.drawing(label, style)
                bitmap = bitmaps.get(label)
                if bitmap is not None and np.array_equal(render(bitmap, sprites.size), drawing):
                    archive.writestr(f"{style}/{row}.source.webp", bitmap)
                else:
                    archive.writestr(f"{style}/{row}.webp", _encoded(drawing))


def unpack(file: Path, out: Path, render: Render, text_encoder: Path) -> None:
    """Fill ``out`` from a packed ``file``, as :mod:`training.prepare` would; what is there already is kept.

    Args:
        file: written by :func:`pack`.
        out: folder to fill.
        render: as in :func:`pack`.
        text_encoder: folder that is copied to ``out`` if it has none.
    """
    out.mkdir(parents=True, exist_ok=True)
    with ZipFile(file) as archive:
        names = set(archive.namelist())
        index = json.loads(archive.read("index.json"))
        for name in sorted(names - {"index.json"}):
            if name.startswith("licenses/") or "/" not in name:
                archive.extract(name, out)
        for style, entry in index["styles"].items():
            writer = SpriteWriter(
                out / "sprites", style, source=entry["source"], size=index["size"]
            )
            for label, row in sorted(entry["rows"].items(), key=lambda item: int(item[1])):
                if label in writer:
                    continue
                published = f"{style}/{row}.source.webp"
                if published in names:
                    writer.add(label, render(archive.read(published), index["size"]))
                else:
                    writer.add(label, _decoded(archive.read(f"{style}/{row}.webp")))
            writer.close()
    if not (out / "text_encoder").exists():
        shutil.copytree(text_encoder, out / "text_encoder")


def _companions(data: Path) -> Iterator[Path]:
    yield data / "emojibase.json"
    yield from sorted(path for path in (data / "licenses").rglob("*") if path.is_file())


def _encoded(drawing: Pixels) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(drawing))
    image.save(buffer, "WEBP", lossless=True, exact=True, method=_METHOD, quality=50)
    return buffer.getvalue()


def _decoded(encoded: bytes) -> Pixels:
    pixels: Pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGBA"))
    return pixels
