"""Pictures of one's own: found in every form that collections have, named where they are broken, and given in turn."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import pictures as module
from training import prepare
from training.folder import CAPTIONS, find, prepare_folder, square
from training.pictures import FolderPictures, has_own_pictures, open_pictures


def encoded(colour: str = "red", size: tuple[int, int] = (40, 30), form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form)
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """A folder with all forms, and one of each fault."""
    folder = tmp_path / "mine"
    (folder / "cats").mkdir(parents=True)
    (folder / "cats/tom.jpg").write_bytes(encoded("gray", form="JPEG"))
    (folder / "cats/tom.txt").write_text("a gray cat\n\na cat\n")
    (folder / "alone.png").write_bytes(encoded())
    (folder / "broken.png").write_bytes(encoded()[:60])
    (folder / "broken.txt").write_text("a broken picture")
    (folder / "text.png").write_bytes(b"not a picture at all")
    (folder / "text.txt").write_text("no picture")
    (folder / "silent.png").write_bytes(encoded())
    (folder / "silent.txt").write_text(" \n")
    (folder / "listed.png").write_bytes(encoded("blue"))
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "listed.png", "text": "a blue square"}\n'
        '{"file_name": "gone.png", "text": "a ghost"}\n'
        '{"line": 3, "prompt": "a bus", "error": "no such class"}\n'
        "{\n"
        '{"text": "no file"}\n'
    )
    with tarfile.open(folder / "shard-0.tar", "w") as archive:
        add(archive, "0001.webp", encoded("green", form="WEBP"))
        add(archive, "0001.txt", b"a green square")
        add(archive, "0002.json", json.dumps({"caption": "a white square"}).encode())
        add(archive, "0002.png", encoded("white"))
        add(archive, "0003.txt", b"a caption alone")
    return folder


def test_every_form_is_found_and_every_fault_is_named(
    collection: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    assert prepare_folder(collection, data, encoder) == 4
    pictures = FolderPictures(data)
    assert [pictures.captions(i, 3) for i in range(4)] == [
        ["a blue square"] * 3,
        ["a gray cat", "a cat", "a gray cat"],
        ["a green square"] * 3,
        ["a white square"] * 3,
    ]
    assert [pictures.picture(i)[256, 256].tolist() for i in range(4)] == [
        [0, 0, 255],
        [128, 128, 128],
        pytest.approx([0, 128, 0], abs=3),
        [255, 255, 255],
    ]
    assert pictures.picture(0).shape == (512, 512, 3)
    *faults, total = capsys.readouterr().out.splitlines()
    assert total == f"{data}: 4 pictures with 5 captions, 8 left out"
    named = dict(fault.removeprefix("left out ").split(": ", 1) for fault in faults)
    assert named.keys() == {
        *("gone.png", "metadata.jsonl line 4", "metadata.jsonl line 5"),
        *("alone.png", "broken.png", "silent.png", "text.png", "shard-0.tar"),
    }
    assert "there is no alone.txt beside it" in named["alone.png"]
    assert "there is no such file" in named["gone.png"]
    assert "not a picture" in named["text.png"]
    assert "truncated" in named["broken.png"]
    assert "0003: it has no picture, only .txt" in named["shard-0.tar"]
    assert (data / CAPTIONS).read_text().splitlines() == [
        "a blue square",
        "a gray cat",
        "a green square",
        "a white square",
    ]
    assert (data / "text_encoder/config.json").is_file()


def test_a_damaged_archive_gives_what_comes_before_the_damage(tmp_path: Path) -> None:
    file = tmp_path / "shard.tar"
    with tarfile.open(file, "w") as archive:
        for i in range(3):
            add(archive, f"{i}.png", encoded())
            add(archive, f"{i}.txt", b"a square")
    file.write_bytes(file.read_bytes()[:3000])
    found = list(find(file))
    assert [f.source for f in found if not f.problem] == ["shard.tar: 0.png"]
    assert "the archive is damaged" in found[-1].problem


def test_a_picture_is_turned_put_on_white_and_cut_to_its_middle() -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    file = io.BytesIO()
    wide.save(file, "PNG")
    middle = np.asarray(square(file.getvalue()))[:, 20:-20].reshape(-1, 3)  # but for the seams
    assert middle[:, 0].max() < 20
    assert middle[:, 2].min() > 235
    turned = Image.new("RGB", (100, 100), "red")
    turned.paste("blue", (0, 0, 100, 50))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    file = io.BytesIO()
    turned.save(file, "JPEG", exif=exif)
    assert np.asarray(square(file.getvalue()))[400, 256, 2] > 200
    file = io.BytesIO()
    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(file, "PNG")
    assert square(file.getvalue()).getpixel((0, 0)) == (255, 255, 255)


def test_all_pictures_come_each_turn_in_another_order(tmp_path: Path, encoder: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(7):
        (folder / f"{i}.png").write_bytes(encoded())
        (folder / f"{i}.txt").write_text(str(i))
    prepare_folder(folder, tmp_path / "data", encoder)
    pictures = open_pictures(tmp_path / "data", seed=1, vocabulary="full")
    turns = [[pictures.captions(7 * turn + i, 1)[0] for i in range(7)] for turn in range(3)]
    assert all(sorted(turn) == list("0123456") for turn in turns)
    assert turns[0] != turns[1] != turns[2]
    assert pictures.count == 7


def test_pictures_to_score_by_are_kept_from_training_where_there_are_enough(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.png").write_bytes(encoded(size=(4, 4)))
        (folder / f"{i}.txt").write_text(str(i))
    prepare_folder(folder, tmp_path / "data", encoder)

    def captions(unseen: bool | None) -> set[str]:
        pictures = FolderPictures(tmp_path / "data", unseen=unseen)
        return {pictures.plain_caption(i) for i in range(pictures.count)}

    assert captions(True) == captions(False) == captions(None) == set("012345")
    monkeypatch.setattr(module, "ENOUGH", 6)
    monkeypatch.setattr(module, "UNSEEN", 2)
    assert captions(True) == set("03")
    assert captions(False) == set("1245")
    assert captions(None) == set("012345")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--folder", "nowhere"), "nowhere does not exist"),
        (("--folder", "empty"), "empty holds no picture with a caption"),
        (("--folder", "empty", "--text-encoder", "none"), "none does not exist"),
        (("--folder", "empty", "--out", "full"), "full holds pictures already"),
        (("--folder", "empty", "--pack", "a.zip"), "--folder takes neither"),
    ],
)
def test_the_command_ends_in_a_sentence(
    arguments: tuple[str, ...],
    message: str,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "pictures").mkdir(parents=True)
    given = ("--out", "data", "--text-encoder", str(encoder), *arguments)
    monkeypatch.setattr("sys.argv", ["training.prepare", *given])
    with pytest.raises(SystemExit) as end:
        prepare.main()
    assert end.value.code in (1, 2)
    written = capsys.readouterr().err
    assert message in written
    assert "Traceback" not in written
    assert not has_own_pictures(tmp_path / "data")
