"""Pictures in a model's directory: read with the weights that painted them, and with no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from star_model.errors import CheckpointError
from star_model.gallery import GALLERY, INDEX, digest_of_transformer, read_gallery
from star_model.vocabulary import Vocabulary
from training.gallery import shrunk, spread

DIGEST = "a" * 64
SHIPPED = Path(__file__).parents[3] / "weights" / "star-mini"


def model_with(folder: Path, index: object, digest: str = DIGEST) -> Path:
    (folder / GALLERY).mkdir()
    (folder / "SHA256SUMS").write_text(f"{digest}  transformer.safetensors\n")
    (folder / GALLERY / INDEX).write_text(json.dumps(index))
    (folder / GALLERY / "a.webp").write_bytes(b"RIFF")
    return folder


INDEX_OF_ONE = {
    "transformer": DIGEST,
    "pictures": [{"prompt": "a fox", "seed": 3, "file": "a.webp"}],
}


def test_pictures_are_read_with_their_prompts(tmp_path: Path) -> None:
    (picture,) = read_gallery(model_with(tmp_path, INDEX_OF_ONE))
    assert (picture.prompt, picture.seed, picture.image) == ("a fox", 3, b"RIFF")


def test_those_of_other_weights_are_not_shown(tmp_path: Path) -> None:
    assert read_gallery(model_with(tmp_path, INDEX_OF_ONE, digest="b" * 64)) == ()


def test_a_model_need_not_have_any(tmp_path: Path) -> None:
    assert read_gallery(tmp_path) == ()
    assert digest_of_transformer(tmp_path) is None


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"prompt": "a fox", "seed": 3, "file": "../a.webp"}, r"pictures\[0\]\.file"),
        ({"prompt": "a fox", "seed": -1, "file": "a.webp"}, r"pictures\[0\]\.seed"),
        ({"prompt": "a fox", "seed": 1, "file": "absent.webp"}, "absent.webp cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, entry: object, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        read_gallery(model_with(tmp_path, {"transformer": DIGEST, "pictures": [entry]}))


def test_the_shipped_gallery_was_painted_by_the_shipped_weights() -> None:
    """Else run ``python -m training.gallery --model weights/star-mini``."""
    pictures = read_gallery(SHIPPED)
    assert len(pictures) >= 12
    assert all(len(picture.image) < 10_000 for picture in pictures)
    assert len({picture.prompt for picture in pictures}) == len(pictures)


def test_prompts_are_spread_over_the_vocabulary() -> None:
    known = Vocabulary(
        {f"a thing {n}": () for n in range(40)},
        ("a",),
        ("flat", "3d"),
        ("blue", "red"),
        {"forest": ("in a forest",)},
    )
    assert spread(known, 4, {"a thing 0"}) == [
        "a thing 5, flat style, on a blue background",
        "a thing 14, 3d style, in a forest",
        "a thing 23, flat style, on a blue background",
        "a thing 32, 3d style, in a forest",
    ]
    assert spread(Vocabulary({"a fox": ()}, ("a",)), 3, set()) == ["a fox"]


def test_a_picture_becomes_small() -> None:
    assert len(shrunk(Image.effect_mandelbrot((512, 512), (-2, -1.5, 1, 1.5), 100))) < 10_000
