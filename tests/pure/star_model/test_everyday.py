"""Everyday words for things, colours and places that captions have in other words."""

from __future__ import annotations

from pathlib import Path

import pytest

from star_model.everyday import everyday_words
from star_model.people import NO_THING
from star_model.prompt_reader import PromptReader
from star_model.vocabulary import Vocabulary, read_vocabulary
from tests.pure.star_model.test_prompt_reader import pooled


@pytest.fixture(scope="module")
def reader() -> PromptReader:
    """With the shipped names, and a likeness that says nothing."""
    vocabulary = read_vocabulary(Path(__file__).parents[3] / "weights" / "star-mini")
    assert vocabulary is not None
    return PromptReader(vocabulary, pooled, lambda word: True)


def test_everyday_words_are_of_names_backdrops_and_colours_that_are_there(
    reader: PromptReader,
) -> None:
    everyday, known = everyday_words(), reader.vocabulary
    assert everyday.names.keys() | everyday.colours.keys() <= known.names.keys()
    assert everyday.places.keys() <= known.backdrops.keys()
    assert {colour for colours in everyday.colours.values() for colour in colours} <= set(
        known.colours
    )


@pytest.mark.parametrize(
    ("prompt", "drawn", "note"),
    [
        ("ice cream", "an ice cream cone", '"ice cream" is read as "an ice cream cone".'),
        (
            "firetruck on a beach",
            "a fire engine on a beach",
            '"firetruck" is read as "a fire engine".',
        ),
        ("a white bunny", "a rabbit", '"bunny" is read as "a rabbit".'),
        ("a red sports car", "a car", '"sports car" is read as "a car".'),
        ("a ship", "a sailboat", '"ship" is read as "a sailboat".'),
        ("a yellow banana", "a banana", ""),
        ("a blue banana", "a banana", 'own colours: "blue" was left out'),
        ("a whale in the ocean", "a whale on the sea", '"in the ocean" is drawn as "on the sea".'),
    ],
)
def test_everyday_words_are_read(reader: PromptReader, prompt: str, drawn: str, note: str) -> None:
    reading = reader.read(prompt)
    assert reading.prompt == drawn
    assert len(reading.notes) == bool(note)
    assert note in "".join(reading.notes)


@pytest.mark.parametrize(
    ("prompt", "behind"),
    [
        ("a beach", "on a beach"),
        ("a starry night sky", "under a starry night sky"),
        ("Change the background to a green meadow", "in a meadow of flowers"),
        ("a white background", "on a white background"),
        ("a beautiful landscape with mountains", "in front of mountains"),
        ("make it blue", ""),
    ],
)
def test_a_background_alone_is_no_thing(reader: PromptReader, prompt: str, behind: str) -> None:
    reading = reader.read(prompt)
    assert reading.refused == NO_THING
    assert all(suggestion.endswith(behind) for suggestion in reading.suggestions)


def test_what_is_made_of_a_thing_is_another(reader: PromptReader) -> None:
    for prompt in ("a banana pie", "a snake costume", "a carrot cake stand"):
        assert reader.read(prompt).unknown


def test_some_names_are_never_read_by_meaning() -> None:
    """ "A golden cup" is a trophy; a cup is none, however alike the two are to a text encoder."""
    known = Vocabulary({"a trophy": ("a golden cup",), "a fox": ()}, ("a",), least_likeness=0.0)
    reader = PromptReader(known, pooled)
    assert reader.read("a golden cup").things == ("a trophy",)
    for prompt in ("a cup", "two cups", "a little cup", "a nice red cup"):
        assert reader.read(prompt).unknown
    assert reader.read("a wolf").unknown == ""
