"""``about.json``: read when it is there, refused when it is wrong, kept when the model is written anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from star_model import errors
from star_model.about import About, read_about
from star_model.checkpoints.native import load_model, verify_checksums
from star_model.checkpoints.saving import save_model
from tests.live_server import ROOT


def test_a_model_without_it_says_nothing(tmp_path: Path) -> None:
    assert read_about(tmp_path) == About("", ())


def test_the_default_model_has_one() -> None:
    about = read_about(ROOT / "weights" / "star-mini")
    assert about.description
    assert len(about.examples) >= 4


def test_it_is_loaded_and_kept(tiny_directory: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_directory, directory)
    text = '{"description": "Draws a fox.", "examples": ["a fox"]}'
    (directory / "about.json").write_text(text, encoding="utf-8")
    model = load_model(directory, device="cpu")
    assert model.about == About("Draws a fox.", ("a fox",))
    save_model(model, directory, overwrite=True)
    assert (directory / "about.json").read_text("utf-8") == text
    verify_checksums(directory)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be an object"),
        ('{"descripton": ""}', "unknown key descripton"),
        ('{"description": 1}', "description must be a string"),
        ('{"examples": "a fox"}', "examples must be a list"),
        ('{"examples": [" "]}', r"examples\[0\] must not be blank"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "about.json").write_text(text, encoding="utf-8")
    with pytest.raises(errors.CheckpointError, match=f"about.json.*{complaint}"):
        read_about(tmp_path)
