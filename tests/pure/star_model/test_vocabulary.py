"""A model that knows few things: which prompts are read as they are, and what the others are read as."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from star_model import load_model, save_model
from star_model.checkpoints.native import verify_checksums
from star_model.errors import CheckpointError
from star_model.vocabulary import VOCABULARY, PromptReader, Vocabulary, read_vocabulary, words_of
from tests.star_model.tiny import build_tiny_model

MEANINGS = {
    "wolf": "fox",
    "foxes": "fox",
    "truck": "car",
    "automobile": "car",
    "rain": "umbrella",
    "photo": "camera",
}
NAMES = {
    "a fox": (),
    "a car": ("an automobile",),
    "an umbrella": (),
    "a camera": (),
    "an orange": (),
}
VOCABULARY_OF_FEW = Vocabulary(
    NAMES,
    tuple(
        words_of(
            "a an fox car automobile umbrella camera orange on in style flat 3d blue light background"
        )
    ),
    ("flat", "3d"),
    ("light blue", "sky blue", "blue", "red", "navy"),
)


def pooled(texts: Sequence[str]) -> Tensor:
    """A direction for each meaning; a text points to the sum of its words'."""
    rows = []
    for text in texts:
        words = [MEANINGS.get(word, word) for word in words_of(text)]
        seeds = [
            zlib.crc32(word.encode())
            for word in words
            if word in {"fox", "car", "umbrella", "camera", "orange"}
        ]
        parts = [torch.randn(64, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        rows.append(torch.stack(parts).sum(0) if parts else torch.ones(64))
    return torch.stack(rows)


@pytest.fixture(scope="module")
def reader() -> PromptReader:
    return PromptReader(VOCABULARY_OF_FEW, pooled)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "  ",
        "a fox",
        "A fox, flat style, on a light blue background.",
        "3D fox",
        "orange on blue",
    ],
)
def test_a_prompt_of_known_words_is_read_as_it_is(reader: PromptReader, prompt: str) -> None:
    assert reader.read(prompt) == prompt


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a wolf", "a fox"),
        ("two foxes in the snow", "a fox"),
        ("a truck", "a car"),
        ("an Automobile by the sea", "a car"),
        ("a portrait of a woman in the rain", "an umbrella"),
        ("a photo of a wolf", "a fox"),
        ("a wolf, flat style, on a blue background", "a fox, flat style, on a blue background"),
        (
            "3d render of a wolf on a sky blue background",
            "a fox, 3d style, on a sky blue background",
        ),
        (
            "A wolf against a red background, in flat style",
            "a fox, flat style, on a red background",
        ),
        ("a wolf on navy", "a fox, on a navy background"),
        ("a wolf on a gradient from Blue to red", "a fox, on a gradient from blue to red"),
        ("a wolf on a blue to light blue gradient", "a fox, on a gradient from blue to light blue"),
        ("a blue wolf", "a fox"),  # not the background
        ("an orange fox near a wolf", "a fox"),  # of two names the nearer to the whole
        ("a wolfhound in a car", "a car"),  # a name that is there counts more than what is near
    ],
)
def test_any_other_is_read_as_the_nearest_thing(
    reader: PromptReader, prompt: str, read: str
) -> None:
    assert reader.read(prompt) == read


@pytest.mark.parametrize(
    "prompt", ["猫", "🦊", "?!", "wolf " * 500, "x" + " " * 9000 + "y", "x" + "," * 9000 + "y"]
)
def test_whatever_is_written_becomes_a_known_prompt(reader: PromptReader, prompt: str) -> None:
    assert reader.read(prompt) in NAMES


def test_without_styles_and_colours_names_are_enough() -> None:
    reader = PromptReader(Vocabulary({"a fox": ()}, ("a", "fox")), pooled)
    assert reader.read("a wolf, flat style, on a blue background") == "a fox"


def test_a_model_says_what_it_read(reader: PromptReader) -> None:
    model = replace(build_tiny_model(), reader=reader)
    assert model.encode_prompt("a wolf").read_as == "a fox"
    assert model.encode_prompt("a fox").read_as == ""
    (plain,) = model.text_encoder.encode(["a fox"])
    assert torch.equal(model.encode_prompt("a wolf").hidden, plain.hidden)  # type: ignore[union-attr]
    assert build_tiny_model().encode_prompt("a wolf").read_as == ""


def test_the_shipped_model_keeps_its_vocabulary(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[3] / "weights" / "star-mini"
    model = load_model(shipped, device="cpu")
    assert model.encode_prompt("a portrait of a woman in the rain").read_as == "an umbrella"
    assert model.encode_prompt("a monkey, 3d style, on a red background").read_as.endswith(
        ", 3d style, on a red background"
    )
    assert model.encode_prompt("a red apple on a blue background").read_as == ""
    save_model(model, tmp_path / "copy", dtype="float16")
    verify_checksums(tmp_path / "copy")
    assert read_vocabulary(tmp_path / "copy") == read_vocabulary(shipped)
    assert VOCABULARY in (shipped / "SHA256SUMS").read_text()


def test_features_of_many_are_those_of_each() -> None:
    model = load_model(Path(__file__).parents[3] / "weights" / "star-mini", device="cpu")
    texts = ["a fox", "a portrait of a woman in the rain", ""]
    each = torch.stack([text.pooled for text in model.text_encoder.encode(texts)])  # type: ignore[union-attr]
    assert torch.allclose(model.text_encoder.pooled(texts), each, atol=1e-5)  # type: ignore[attr-defined]


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
    VOCABULARY_OF_FEW.save(tmp_path)
    assert read_vocabulary(tmp_path) == VOCABULARY_OF_FEW
    assert json.loads((tmp_path / VOCABULARY).read_text())["names"]["a car"] == ["an automobile"]
