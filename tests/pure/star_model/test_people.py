"""People, whom nothing that a model draws may stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from star_model.people import NO_PEOPLE, NO_SUCH_THING, find_people
from star_model.prompt_reader import PromptReader
from star_model.vocabulary import Vocabulary, read_vocabulary
from tests.pure.star_model.test_prompt_reader import pooled

SHIPPED = Path(__file__).parents[3] / "weights" / "star-mini"
PHRASES = Path(__file__).with_name("people_phrases.txt").read_text(encoding="utf-8").splitlines()

THINGS = {
    "a snowman": "a snowman",
    "two snowmen": "a snowman",
    "a teddy bear": "a teddy bear",
    "a king crab": "a crab",
    "a cat face": "a cat",
    "a queen bee": "a honeybee",
    "a lady beetle": "a ladybug",
    "a baby elephant": "an elephant",
    "an african elephant": "an elephant",
    "a catholic church": "a church",
    "a german car": "a car",
    "french fries": "french fries",
    "an african bird": "a penguin",
    "a pizza for a man": "a pizza",
    "a fox and a woman": "a fox",
    "draw me a fox": "a fox",
    "a couple of foxes": "a fox",
}
"""Prompts with a word for people that ask for a thing."""


@pytest.fixture(scope="module")
def reader() -> PromptReader:
    """With the shipped names, and a likeness that says nothing: any two words are as alike as chance has it."""
    vocabulary = read_vocabulary(SHIPPED)
    assert vocabulary is not None
    return PromptReader(vocabulary, pooled, lambda word: True)


@pytest.mark.parametrize("prompt", PHRASES)
def test_nothing_stands_for_people(reader: PromptReader, prompt: str) -> None:
    reading = reader.read(prompt)
    assert reading.refused in (NO_PEOPLE, NO_SUCH_THING)
    assert reading.notes[0] == reading.refused
    assert reading.unknown
    assert reading.things == ()
    things = [suggestion.split(" ")[1].strip(",") for suggestion in reading.suggestions]
    assert things == ["house", "sailboat", "guitar"], "neither alive nor eaten, and always the same"


@pytest.mark.parametrize(("prompt", "thing"), THINGS.items())
def test_things_with_such_words_stay_things(reader: PromptReader, prompt: str, thing: str) -> None:
    reading = reader.read(prompt)
    assert (reading.refused, reading.things) == ("", (thing,))


@pytest.mark.parametrize("prompt", ["a robot", "a gingerbread man", "a talisman", "a playlist"])
def test_other_unknown_things_are_not_taken_for_people(reader: PromptReader, prompt: str) -> None:
    assert not reader.read(prompt).refused


def test_a_model_may_know_people() -> None:
    known = Vocabulary({"a fox": (), "a gingerbread man": (), "a chef": ("a cook",)}, ("a", "chef"))
    reader = PromptReader(known, pooled)
    assert reader.read("a gingerbread man").things == ("a gingerbread man",)
    assert reader.read("two chefs").things == ("a chef",)
    assert reader.read("a chinese chef").things == ("a chef",)
    assert reader.read("a nun").refused == NO_SUCH_THING, "it does not say that it draws no people"


def test_the_reason_is_said(reader: PromptReader) -> None:
    for prompt in ("a muslim", "my grandmother", "a face", "two policemen"):
        assert reader.read(prompt).refused == NO_PEOPLE


def test_plurals_compounds_and_phrases_are_found() -> None:
    assert find_people(["two", "policewomen", "and", "jews"]) == {1: "person", 3: "group"}
    assert find_people(["drag", "queens"]) == {0: "group", 1: "group"}
    assert find_people(["gingerbread", "man", "talisman", "snowmen", "mist"]) == {}
