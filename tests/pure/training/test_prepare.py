import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training import sources
from training.prepare import (
    MARGIN,
    alpha_box,
    hexcode_key,
    prepare,
    read_emojibase,
    render_bitmap,
    render_style,
    render_svg,
)
from training.sources import SOURCES, STYLES, Source, SourceError, fetch, sha256_of, source_of_style
from training.sprites import Sprites, SpriteWriter

RECT = '<rect x="2" y="6" width="4" height="2" fill="#f00"/>'


def write_npm(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def iconify(icons: dict[str, str], chars: dict[str, str], **more: Any) -> dict[str, bytes]:
    content = {
        "icons": {name: {"body": body} for name, body in icons.items()},
        "width": 16,
        "height": 16,
    }
    return {
        "icons.json": json.dumps(content | more).encode(),
        "chars.json": json.dumps(chars).encode(),
    }


def a_source(archive: Path, **changes: Any) -> Source:
    fields: dict[str, Any] = {
        "ecosystem": "npm",
        "name": "@fake/set",
        "version": "1.0.0",
        "sha256": sha256_of(archive),
        "licence": "MIT",
        "layout": "iconify",
        "style": "flat",
        "notice": "fluent-emoji.txt",
    }
    return Source(**(fields | changes))


def test_the_table_is_consistent() -> None:
    assert len(set(STYLES)) == len(STYLES) == 3
    assert source_of_style("3d").layout == "webp"
    folder = Path(sources.__file__).parent / "licenses"
    for source in SOURCES:
        assert (folder / source.notice).is_file(), source.notice
    with pytest.raises(KeyError, match="oil"):
        source_of_style("oil")


def test_a_drawing_is_cropped_centred_and_premultiplied() -> None:
    pixels = render_svg(RECT, 16, 16, size=100)
    box = alpha_box(pixels[..., 3])
    assert box is not None
    x0, y0, x1, y1 = box
    assert abs(x0 - 100 * MARGIN) <= 1
    assert abs(x1 - 100 * (1 - MARGIN)) <= 1
    assert abs((x1 - x0) - 2 * (y1 - y0)) <= 3
    assert abs((y0 + y1) / 2 - 50) <= 1
    assert pixels[50, 50].tolist() == [255, 0, 0, 255]
    half = render_svg(RECT.replace("/>", ' opacity="0.5"/>'), 16, 16, size=100)
    assert half[50, 50, 3] == pytest.approx(128, abs=1)
    assert half[50, 50, 0] == half[50, 50, 3]


def test_what_the_original_clips_stays_clipped() -> None:
    beyond = (
        '<rect x="12" y="6" width="8" height="4" fill="#0f0"/>'  # half of it outside the 16 units
    )
    pixels = render_svg(beyond, 16, 16, size=100)
    box = alpha_box(pixels[..., 3])
    assert box is not None
    assert abs((box[2] - box[0]) - (box[3] - box[1])) <= 2


def test_a_bitmap_is_treated_alike() -> None:
    straight = np.zeros((40, 40, 4), np.uint8)
    straight[10:20, 5:25] = (0, 0, 250, 255)
    file = io.BytesIO()
    Image.fromarray(straight).save(file, "WEBP", lossless=True)
    pixels = render_bitmap(file.getvalue(), size=100)
    box = alpha_box(pixels[..., 3])
    assert box is not None
    assert (box[0], box[2]) == (2, 98)
    assert (box[1], box[3]) == (26, 74)
    assert pixels[50, 50].tolist() == [0, 0, 250, 255]
    assert (pixels[..., :3] <= pixels[..., 3:]).all()


def test_blank_drawings_are_dropped_and_rows_stay(tmp_path: Path) -> None:
    files = iconify(
        {"square": RECT, "nothing": "", "dot": RECT.replace("#f00", "#00f")},
        {"1f0": "square", "1f1": "nothing", "1f2-fe0f": "other-name"},
        aliases={"other-name": {"parent": "dot"}},
    )
    archive = write_npm(tmp_path / "set.tgz", files)
    source = a_source(archive)
    concepts = [
        {"label": "square", "hexcode": "1f0"},
        {"label": "blank", "hexcode": "1f1"},
        {"label": "dot", "hexcode": "1f2"},
    ]
    folder = tmp_path / "data" / "sprites"
    assert render_style(source, archive, concepts, frozenset({"dot", "blank"}), folder) == ["blank"]
    assert Sprites(tmp_path / "data").labels("flat") == ("dot",)
    before = Sprites(tmp_path / "data").drawing("dot", "flat").copy()
    everything = frozenset({"square", "dot", "blank"})
    assert render_style(source, archive, concepts, everything, folder) == ["blank"]
    after = Sprites(tmp_path / "data")
    assert after.labels("flat") == ("dot", "square")
    np.testing.assert_array_equal(after.drawing("dot", "flat"), before)
    assert after.drawing("square", "flat")[192, 192].tolist() == [255, 0, 0, 255]
    # A third run has nothing to do, and so does not open the archive.
    assert render_style(source, tmp_path / "gone.tgz", concepts, everything, folder) == ["blank"]


def test_drawings_of_another_version_are_not_mixed(tmp_path: Path) -> None:
    one = np.full((8, 8, 4), 255, np.uint8)
    old = SpriteWriter(tmp_path / "sprites", "flat", source="set@1", size=8)
    old.add("fox", one)
    old.close()
    new = SpriteWriter(tmp_path / "sprites", "flat", source="set@2", size=8)
    assert "fox" not in new
    new.add("owl", one // 2)
    new.close()
    assert Sprites(tmp_path).labels("flat") == ("owl",)
    with pytest.raises(ValueError, match="of 8 px"):
        SpriteWriter(tmp_path / "sprites", "flat", source="set@2", size=16)
    with pytest.raises(ValueError, match="expected uint8"):
        new.add("elk", np.zeros((4, 4, 4), np.uint8))


def test_an_archive_that_is_not_the_recorded_one_is_refused(tmp_path: Path) -> None:
    archive = write_npm(tmp_path / "fake-set-1.0.0.tgz", {"README.md": b"hello"})
    source = a_source(archive)
    assert fetch(source, tmp_path) == archive
    archive.write_bytes(archive.read_bytes() + b"!")
    with pytest.raises(SourceError, match="recorded is"):
        fetch(source, tmp_path)


def test_fetching_uses_the_client_and_keeps_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_npm(tmp_path / "original.tgz", {"README.md": b"hello"})
    source = a_source(archive)
    tool = tmp_path / "npm"
    tool.write_text(
        f'#!/bin/sh\n[ "$5" = "@fake/set@1.0.0" ] || exit 1\ncp {archive} "$4/any-name.tgz"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(tool))
    got = fetch(source, tmp_path / "archives")
    assert got.name == "fake-set-1.0.0.tgz"
    assert got.read_bytes() == archive.read_bytes()
    assert [path.name for path in (tmp_path / "archives").iterdir()] == [got.name]
    with pytest.raises(SourceError, match=r"@fake/set 2\.0\.0 failed"):
        fetch(a_source(archive, version="2.0.0"), tmp_path / "archives")


def test_a_row_of_the_table_is_checked(tmp_path: Path) -> None:
    archive = write_npm(tmp_path / "set.tgz", {})
    with pytest.raises(ValueError, match="sha256"):
        a_source(archive, sha256="12")
    with pytest.raises(ValueError, match="style"):
        a_source(archive, style=None)


def test_emojibase_is_read_by_group(tmp_path: Path) -> None:
    entries = [
        {"label": "flag", "hexcode": "1F1E6", "group": 9, "subgroup": 98, "order": 1},
        {
            "label": "woman’s hat",
            "hexcode": "1F452",
            "group": 7,
            "subgroup": 65,
            "order": 3,
            "tags": ["hat"],
        },
        {"label": "rainbow", "hexcode": "1F308-FE0F", "group": 5, "subgroup": 59, "order": 2},
        {"label": "letter", "hexcode": "1F1E7"},
    ]
    groups = {"subgroups": {"65": "clothing", "59": "sky-weather", "98": "country-flag"}}
    files = {
        "en/data.json": json.dumps(entries).encode(),
        "meta/groups.json": json.dumps(groups).encode(),
    }
    found = read_emojibase(write_npm(tmp_path / "emojibase.tgz", files))
    assert [e["label"] for e in found] == ["rainbow", "woman's hat"]
    assert found[0]["hexcode"] == hexcode_key("1F308") == "1f308"
    assert found[1] == {
        "label": "woman's hat",
        "hexcode": "1f452",
        "group": "objects",
        "subgroup": "clothing",
        "tags": ["hat"],
    }


def test_prepare_refuses_a_vocabulary_that_a_style_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [
        {"label": label, "hexcode": hexcode, "group": 3, "subgroup": 34, "order": i}
        for i, (label, hexcode) in enumerate([("fox", "1F0"), ("owl", "1F1")])
    ]
    groups = {"subgroups": {"34": "animal-mammal"}}
    archives = tmp_path / "out" / "archives"
    archives.mkdir(parents=True)
    emoji = write_npm(
        archives / "fake-emojibase-1.0.0.tgz",
        {
            "en/data.json": json.dumps(entries).encode(),
            "meta/groups.json": json.dumps(groups).encode(),
        },
    )
    drawn = write_npm(archives / "fake-set-1.0.0.tgz", iconify({"fox": RECT}, {"1f0": "fox"}))
    encoder = tmp_path / "out" / "text_encoder" / "model.safetensors"
    encoder.parent.mkdir()
    encoder.write_bytes(b"weights")
    table = (
        a_source(drawn),
        a_source(emoji, name="@fake/emojibase", layout="emojibase", style=None),
    )
    monkeypatch.setattr("training.prepare.SOURCES", table)
    monkeypatch.setattr("training.sources.SOURCES", table)
    monkeypatch.setattr("training.prepare.TEXT_ENCODER_SHA256", sha256_of(encoder))
    prepare(tmp_path / "out", "full")
    assert Sprites(tmp_path / "out").labels("flat") == ("fox",)
    assert (tmp_path / "out" / "licenses" / "fluent-emoji.txt").is_file()
    assert "1 concepts" in capsys.readouterr().out
    with pytest.raises(ValueError, match="not drawn in every style"):
        prepare(tmp_path / "out", "starter")
