"""A model that knows few things: what a prompt is read as, and what is said of the rest."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from star_model import load_model
from star_model.lexicon import Key, Lexicon
from star_model.model import StarModel
from star_model.people import NO_THING
from star_model.prompt_reader import PromptReader
from star_model.reading import Reading
from star_model.vocabulary import Vocabulary, words_of
from tests.star_model.tiny import build_tiny_model

MEANINGS = {
    "wolf": "fox",
    "foxes": "fox",
    "truck": "car",
    "automobile": "car",
    "sits": "",
    "old": "",
}
"""Words that mean the same, and words that mean nothing."""

NAMES = {
    "a fox": (),
    "a car": ("an automobile",),
    "an umbrella": (),
    "a camera": (),
    "an orange": (),
    "a red apple": ("an apple",),
    "an elephant": (),
}
CAPTIONS = (
    "a an fox car automobile umbrella camera orange red apple elephant small big picture of on in style flat 3d blue "
    "light background gradient from to next left the and above"
)
FEW = Vocabulary(
    NAMES,
    tuple(dict.fromkeys(words_of(CAPTIONS))),
    ("flat", "3d"),
    ("light blue", "sky blue", "blue", "red", "navy", "orange"),
    kinds={"animal": ("a fox", "an elephant"), "vehicle": ("a car",)},
)
PLACES: dict[str, tuple[str, ...]] = {
    "forest": ("in a forest", "among trees"),
    "beach": ("on a beach", "on a sandy beach"),
}
ENGLISH = frozenset("robot house hello wolf truck sits old mint moon chair happy".split())  # noqa: SIM905


def pooled(texts: Sequence[str]) -> Tensor:
    """A direction for each meaning; a text points to the sum of its words'."""
    rows = []
    for text in texts:
        words = [MEANINGS.get(word, word) for word in words_of(text)]
        meanings = [word for word in words if word not in ("", "a", "an", "the")]
        rows.append(sum((_direction(word) for word in meanings), torch.zeros(64)))
    return torch.stack(rows)


def _direction(word: str) -> Tensor:
    return torch.randn(64, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))


def reader_of(vocabulary: Vocabulary) -> PromptReader:
    return PromptReader(vocabulary, pooled, ENGLISH.__contains__)


@pytest.fixture(scope="module")
def reader() -> PromptReader:
    return reader_of(FEW)


@pytest.fixture(scope="module")
def pairs() -> PromptReader:
    """Of a model that draws two things, and places behind them."""
    return reader_of(replace(FEW, max_things=2, backdrops=PLACES))


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "  ",
        "a fox",
        "A fox, flat style, on a light blue background.",
        "3D fox",
        "orange on blue",
        "a picture of a small fox on a gradient from blue to red",
        "a red background with an apple",
        "fox, animal, flat",
        "an orange on an orange background",
    ],
)
def test_what_is_understood_is_read_as_it_is(reader: PromptReader, prompt: str) -> None:
    reading = reader.read(prompt)
    assert reading.prompt == prompt
    assert (reading.notes, reading.unknown, reading.suggestions) == ((), "", ())


@pytest.mark.parametrize(
    ("prompt", "read", "note"),
    [
        ("a wolf", "a fox", 'does not know "wolf"'),
        ("an elefant", "an elephant", 'Read "elefant" as "elephant"'),
        ("an umbrela, flat", "an umbrella, flat style", 'Read "umbrela" as "umbrella"'),
        ("an animal", "a fox", '"an animal" may be many things'),
        ("a happy animal", "a fox", "many things"),
        ("two foxes", "a fox", '"two foxes" as "a fox"'),
        ("a blue fox", "a fox", 'own colours: "blue" was left out'),
        ("a blue apple on a red background", "a red apple on a red background", '"blue" was'),
        ("a fox on the moon", "a fox", '"on the moon" was left out'),
        ("a fox and a car", "a fox", 'One thing is drawn in a picture: "a car" was left out'),
        ("a fox, a car and an umbrella", "a fox", '"a car", "an umbrella" were left out'),
        ("a fox next to a car", "a fox", '"a car" was left out'),
        ("a fox on a mint background", "a fox", '"mint" was left out: the colours'),
        ("a photo of a fox", "a fox", '"photo" was left out: the styles are flat and 3d'),
        ("an oil painting of an apple", "a red apple", '"oil painting" was left out'),
        ("a fox wearing an umbrella", "a fox", '"wearing an umbrella" was left out'),
        ("a fox sits on a chair", "a fox", '"on a chair" was left out'),
        ("a small old fox", "a small fox", '"old" was left out'),
        (
            "a wolf, flat style, on a navy background",
            "a fox, flat style, on a navy background",
            "wolf",
        ),
        ("a wolf on a gradient from Blue to red", "a fox on a gradient from blue to red", "wolf"),
        (
            "a wolf on a blue to light blue gradient",
            "a fox on a gradient from blue to light blue",
            "",
        ),
        ("an orange fox near a wolf", "a fox", '"orange" was left out'),
        ("a house in a car", "a car", ""),
    ],
)
def test_what_is_drawn_otherwise_is_said(
    reader: PromptReader, prompt: str, read: str, note: str
) -> None:
    reading = reader.read(prompt)
    if prompt == "a house in a car":  # a place is never drawn in place of the thing
        assert reading.unknown == "house"
        return
    assert reading.prompt == read
    assert not reading.unknown
    assert any(note in sentence for sentence in reading.notes), reading.notes


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a robot", "robot"),
        ("hello", "hello"),
        ("my robot, flat style", "robot"),
        ("a fox robot house", "fox robot house"),
        ("a robot and a fox", "robot"),
        ("a robot holding an umbrella", "robot"),
        ("un zorro", "un zorro"),
        ("猫", "猫"),
        ("🏺", "amphora"),
        ("?!", "?!"),
        ("on a blue background", "on a blue background"),
        ("blue", "blue"),
    ],
)
def test_what_the_model_cannot_draw_is_unknown(
    reader: PromptReader, prompt: str, unknown: str
) -> None:
    reading = reader.read(prompt)
    assert reading.unknown == unknown
    assert len(reading.suggestions) == 3
    assert reading.prompt == reading.suggestions[0]
    for suggestion in reading.suggestions:
        assert reader.read(suggestion) == Reading(
            suggestion, reader.read(suggestion).things, reading.style, reading.background
        ), "a suggestion is understood"


def test_suggestions_keep_style_and_background(reader: PromptReader) -> None:
    reading = reader.read("a robot, flat style, on a red background")
    assert all(s.endswith(", flat style, on a red background") for s in reading.suggestions)
    assert len(set(reading.suggestions)) == 3


def test_another_language_is_named(reader: PromptReader) -> None:
    assert "Prompts are read in English." in reader.read("ein roter Apfel").notes
    assert "Prompts are read in English." not in reader.read("a robot").notes


@pytest.mark.parametrize(
    ("prompt", "things", "background"),
    [
        ("a fox and a car", ("a fox", "a car"), ""),
        ("a fox to the left of a car", ("a fox", "a car"), ""),
        ("a fox in a forest", ("a fox",), "in a forest"),
        ("an umbrella on a sandy beach", ("an umbrella",), "on a beach"),
        ("a forest background with a fox", ("a fox",), "in a forest"),
    ],
)
def test_what_the_vocabulary_allows_is_drawn(
    pairs: PromptReader, prompt: str, things: tuple[str, ...], background: str
) -> None:
    reading = pairs.read(prompt)
    assert (reading.things, reading.background, reading.notes) == (things, background, ())
    assert reading.prompt == prompt


def test_a_place_in_other_words_is_a_backdrop(pairs: PromptReader) -> None:
    reading = pairs.read("a fox in the dark forest")
    assert reading.prompt == "a fox in a forest"
    assert reading.notes == ('"in the dark forest" is drawn as "in a forest".',)
    assert "the backdrops are forest and beach" in pairs.read("a fox on the moon").notes[0]


def test_of_too_many_things_the_last_are_left_out(pairs: PromptReader) -> None:
    reading = pairs.read("a fox, a car and an umbrella")
    assert reading.prompt == "a fox and a car"
    assert reading.notes == (
        'At most 2 things are drawn in a picture: "an umbrella" was left out.',
    )


def test_a_word_of_the_language_is_no_typing_error() -> None:
    """ "house" is one letter from "mouse" and a word of its own."""
    reader = reader_of(Vocabulary({"a mouse": (), "a fox": ()}, ("a", "mouse", "fox")))
    assert reader.read("a house").unknown == "house"
    assert reader.read("a moouse").prompt == "a mouse"
    assert reader.read("a foxy car").unknown, "a word derived from a name is not that name misspelt"


def test_likeness_decides_what_is_the_same() -> None:
    asked = "a wolf car"  # half a fox, half a car
    near, far = (reader_of(replace(FEW, least_likeness=least)) for least in (0.1, 0.99))
    assert far.read("a wolf").unknown == ""
    assert far.read(asked.replace("car", "truck")).unknown
    assert not near.read(asked.replace("car", "truck")).unknown


@pytest.mark.parametrize(
    "prompt",
    ["wolf " * 500, "x" + " " * 9000 + "y", "x" + "," * 9000 + "y", "and " * 700, "fox " * 700],
)
def test_whatever_is_written_becomes_a_known_prompt(reader: PromptReader, prompt: str) -> None:
    reading = reader.read(prompt)
    assert reading.refused or reading.things[0] in NAMES
    assert reader.read(reading.prompt).things[0] in NAMES


def test_without_styles_and_colours_names_are_enough() -> None:
    reader = reader_of(Vocabulary({"a fox": ()}, ("a", "fox")))
    reading = reader.read("a wolf, flat style, on a blue background")
    assert reading.prompt == "a fox"
    assert any('"blue" was left out' in note for note in reading.notes)


def test_a_model_says_what_it_read(reader: PromptReader) -> None:
    model = replace(build_tiny_model(), reader=reader)
    assert model.encode_prompt("a wolf").notes == reader.read("a wolf").notes != ()
    assert model.encode_prompt("a fox").notes == ()
    (plain,) = model.text_encoder.encode(["a fox"])
    assert torch.equal(model.encode_prompt("a wolf").hidden, plain.hidden)  # type: ignore[union-attr]
    assert build_tiny_model().encode_prompt("a wolf").notes == ()
    assert build_tiny_model().read_prompt("a wolf") == Reading("a wolf")


DRAWN = {
    "a bird": "bird",
    "a photo of a dog": "a dog",
    "a cat on the moon": "a cat",
    "an aple": "a red apple",
    "a cat and a dog": "a cat",
    "🍎": "a red apple",
    "a spaceship, 3d style": "a rocket",
}
"""Prompts of newcomers, and the thing, or the kind of thing, that is drawn."""
NEVER_DRAWN = (
    "my grandmother",
    "a guitar player",
    "a muslim",
    "a robot",
    "hello",
    "mint background",
    "a portrait of a woman in the rain",
    "happiness",
    "un abuelo",
)


@pytest.fixture(scope="module")
def shipped() -> StarModel:
    return load_model(Path(__file__).parents[3] / "weights" / "star-mini", device="cpu")


@pytest.mark.parametrize(("prompt", "thing"), DRAWN.items())
def test_the_shipped_model_draws_the_thing(shipped: StarModel, prompt: str, thing: str) -> None:
    reading = shipped.read_prompt(prompt)
    assert shipped.reader is not None
    things = shipped.reader.vocabulary.kinds.get(thing, (thing,))
    assert reading.things[0] in things
    assert not reading.unknown
    assert reading.prompt == prompt or reading.notes


@pytest.mark.parametrize("prompt", NEVER_DRAWN)
def test_the_shipped_model_says_what_it_cannot_draw(shipped: StarModel, prompt: str) -> None:
    reading = shipped.read_prompt(prompt)
    assert reading.unknown
    assert reading.notes
    assert len(set(reading.suggestions)) == 3


def test_the_shipped_model_knows_its_names(shipped: StarModel) -> None:
    assert shipped.reader is not None
    for name in list(shipped.reader.vocabulary.names)[::10]:
        assert shipped.read_prompt(name) == Reading(name, (name,))
    assert shipped.read_prompt("a red apple on a blue background").notes == ()


def test_a_prompt_is_read_once(reader: PromptReader) -> None:
    prompt = "an owl that nobody has asked for"
    assert reader.read(prompt) is reader.read(prompt)


def test_of_a_long_prompt_the_beginning_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work for a prompt does not grow with its length, nor with the square of its number of words."""
    seen: list[int] = []
    match = Lexicon.match

    def counted(
        self: Lexicon, table: Mapping[Key, str], words: Sequence[str]
    ) -> tuple[int, str] | None:
        seen.append(len(words))
        return match(self, table, words)

    monkeypatch.setattr(Lexicon, "match", counted)
    reader = reader_of(FEW)
    reading = reader.read("a fox " + "of " * 10_000)
    assert reading.things == ("a fox",)
    assert reading.notes[-1] == "Only the first 2,000 characters of the prompt are read."
    assert max(seen) <= 2, "no phrase is longer"
    assert len(seen) < 3 * 1000
    assert len(reading.prompt) <= 2000
    assert "characters" not in str(reader.read("a fox " + "of " * 600).notes)


def test_every_name_is_read_as_its_thing(shipped: StarModel) -> None:
    assert shipped.reader is not None

    for thing, names in shipped.reader.vocabulary.names.items():
        for name in (thing, *names):
            reading = shipped.read_prompt(name)
            assert (reading.things, reading.unknown) == ((thing,), ""), name


@pytest.mark.parametrize(
    ("prompt", "background"),
    [
        ("change the background to blue", "on a blue background"),
        ("Make its background navy blue", "on a navy blue background"),
        ("please set the background to be a forest", "in a forest"),
        ("replace the background with a sunset", "at sunset"),
        ("put it on a beach", "on a beach"),
        ("place them under a starry night sky", "under a starry night sky"),
        ("background: snow", "in the snow"),
        ("a plain green background", "on a green background"),
    ],
)
def test_what_an_edit_is_told_to_do_is_read_as_a_background(
    shipped: StarModel, prompt: str, background: str
) -> None:
    reading = shipped.read_prompt(prompt)
    assert (reading.refused, reading.background) == (NO_THING, background)


@pytest.mark.parametrize("prompt", ["put a fox on a beach", "make a red fox", "turn it off"])
def test_other_orders_are_no_backgrounds(shipped: StarModel, prompt: str) -> None:
    assert shipped.read_prompt(prompt).refused == ""
