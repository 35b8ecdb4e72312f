"""``about.json``: read when it is there, refused when it is wrong, kept when the model is written anew."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from star_model import errors
from star_model.about import About, read_about, write_about
from star_model.checkpoints.native import load_model, verify_checksums
from star_model.checkpoints.published import convert_published
from star_model.checkpoints.saving import save_model
from star_model.families.registry import PRESETS
from tests.live_server import ROOT
from tests.star_model import golden
from tests.star_model.golden import OfficialFiles


def test_a_model_without_it_says_nothing(tmp_path: Path) -> None:
    assert read_about(tmp_path) == About("", ())


def test_the_default_model_has_one() -> None:
    about = read_about(ROOT / "weights" / "star-mini")
    assert about.description
    assert len(about.examples) >= 4
    assert about.license == "Apache-2.0", "as its card says"


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


def test_what_is_written_is_read(tmp_path: Path) -> None:
    about = About("Draws a fox.", ("a fox",), "MIT")
    write_about(tmp_path, about)
    assert read_about(tmp_path) == about
    write_about(tmp_path, About(license="MIT"))
    assert (tmp_path / "about.json").read_text("utf-8") == '{\n  "license": "MIT"\n}\n'


def test_a_converted_model_has_the_licence_of_its_weights(
    var_files: OfficialFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer, vqvae, _ = var_files
    for name in ("var-d30", "var-d30-cca"):
        monkeypatch.setitem(PRESETS, name, replace(golden.VAR.config, name=name))
        out = tmp_path / name
        convert_published(
            transformer=transformer, vqvae=vqvae, text_encoder=None, out=out, preset=name
        )
        verify_checksums(out)
    assert read_about(tmp_path / "var-d30") == About(license="MIT")
    assert not (tmp_path / "var-d30-cca" / "about.json").exists(), "none is stated"
    (tmp_path / "var-d30" / "about.json").write_text('{"license": "my own"}', encoding="utf-8")
    convert_published(
        transformer=transformer,
        vqvae=vqvae,
        text_encoder=None,
        out=tmp_path / "var-d30",
        preset="var-d30",
        overwrite=True,
    )
    assert read_about(tmp_path / "var-d30").license == "my own", "what people wrote is kept"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be an object"),
        ('{"descripton": ""}', "unknown key descripton"),
        ('{"description": 1}', "description must be a string"),
        ('{"examples": "a fox"}', "examples must be a list"),
        ('{"license": ""}', "license must not be blank"),
        ('{"license": ["MIT"]}', "license must be a string"),
        ('{"examples": [" "]}', r"examples\[0\] must not be blank"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "about.json").write_text(text, encoding="utf-8")
    with pytest.raises(errors.CheckpointError, match=f"about.json.*{complaint}"):
        read_about(tmp_path)
