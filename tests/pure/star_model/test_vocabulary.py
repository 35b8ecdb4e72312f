"""``vocabulary.json``: what a model that knows few things has beside its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from star_model import load_model, save_model
from star_model.checkpoints.native import verify_checksums
from star_model.errors import CheckpointError
from star_model.model import StarModel
from star_model.vocabulary import VOCABULARY, Vocabulary, read_vocabulary

FEW = Vocabulary(
    {"a fox": (), "a car": ("an automobile",)},
    ("a", "an", "fox", "car", "automobile"),
    ("flat", "3d"),
    ("light blue", "blue"),
    {"forest": ("in a forest",)},
    {"animal": ("a fox",)},
    max_things=2,
    least_likeness=0.5,
)


SHIPPED = Path(__file__).parents[3] / "weights" / "star-mini"


@pytest.fixture(scope="module")
def shipped() -> StarModel:
    return load_model(SHIPPED, device="cpu")


def test_the_shipped_model_keeps_its_vocabulary(shipped: StarModel, tmp_path: Path) -> None:
    save_model(shipped, tmp_path / "copy", dtype="float16")
    verify_checksums(tmp_path / "copy")
    assert read_vocabulary(tmp_path / "copy") == read_vocabulary(SHIPPED)
    assert VOCABULARY in (SHIPPED / "SHA256SUMS").read_text()


def test_a_file_of_the_first_release_is_read(tmp_path: Path) -> None:
    (tmp_path / VOCABULARY).write_text('{"names": {"a fox": []}, "words": ["fox"]}')
    assert read_vocabulary(tmp_path) == Vocabulary({"a fox": ()}, ("fox",))


def test_features_of_many_are_those_of_each(shipped: StarModel) -> None:
    texts = ["a fox", "a portrait of a woman in the rain", ""]
    each = torch.stack([text.pooled for text in shipped.text_encoder.encode(texts)])  # type: ignore[union-attr]
    assert torch.allclose(shipped.text_encoder.pooled(texts), each, atol=1e-5)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be an object"),
        ('{"names": {"a fox": []}}', "missing key words"),
        ('{"names": {"a fox": []}, "words": [], "colors": []}', "unknown key colors"),
        (
            '{"names": {}, "words": [], "styles": [], "colours": []}',
            "names must have at least 1 item",
        ),
        (
            '{"names": {"a fox": "fox"}, "words": [], "styles": [], "colours": []}',
            r"names\.a fox must be a list",
        ),
        (
            '{"names": {"a fox": [1]}, "words": [], "styles": [], "colours": []}',
            r"names\.a fox\[0\] must be a string",
        ),
        (
            '{"names": {"a fox": []}, "words": "fox", "styles": [], "colours": []}',
            "words must be a list",
        ),
        (
            '{"names": {"a fox": []}, "words": [], "styles": [" "], "colours": []}',
            r"styles\[0\] must not be blank",
        ),
        (
            '{"names": {"a fox": []}, "words": [], "backdrops": {"forest": []}}',
            r"backdrops\.forest must have at least 1 item",
        ),
        ('{"names": {"a fox": []}, "words": [], "max_things": 0}', "max_things must be at least 1"),
        (
            '{"names": {"a fox": []}, "words": [], "least_likeness": 1.5}',
            "least_likeness must be at most 1",
        ),
    ],
)
def test_a_damaged_vocabulary_says_what_is_wrong(
    tmp_path: Path, content: str, complaint: str
) -> None:
    (tmp_path / VOCABULARY).write_text(content)
    with pytest.raises(CheckpointError, match=complaint):
        read_vocabulary(tmp_path)


def test_no_vocabulary_is_none(tmp_path: Path) -> None:
    assert read_vocabulary(tmp_path) is None
    FEW.save(tmp_path)
    assert read_vocabulary(tmp_path) == FEW
    assert json.loads((tmp_path / VOCABULARY).read_text())["names"]["a car"] == ["an automobile"]
