"""Captions of what the vocabulary lacks: which words, what is drawn for them, and what is kept from training."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import torch

from star_model.networks.text_encoder import TextConditioning
from tests.training.fake_data import write_fake_data
from training.concepts import held_out_keywords, load_concepts, with_article, without_article
from training.evaluate import make_splits
from training.other_words import (
    HELD_OUT_WORDS,
    MOST_POSITIONS,
    label_phrases,
    load_words,
    make_phrase,
    nearest_name,
)
from training.scenes import SceneGenerator

WORDS = [
    "woman",
    "kangaroo",
    "spoon",
    "fox",
    "umbrella stand",
    "left-facing fist",
    "ok",
    "family: two",
    "a very long name",
]
MEANINGS = {
    "kangaroo": "fox",
    "woman": "owl",
    "spoon": "scissors",
    "rain": "banana",
    "photo": "radio",
}
"""Word -> the thing that it is nearest to for :func:`encode`."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_fake_data(tmp_path_factory.mktemp("data"))
    (folder / "words.json").write_text(json.dumps(WORDS))
    return folder


def encode(texts: Sequence[str]) -> list[TextConditioning]:
    """A text encoder: the sum of a direction for each thing that a text means, its second word's counting most."""
    encoded = []
    for text in texts:
        words = text.split()
        pooled = torch.zeros(32)
        for weight, word in zip((0.3, 3.0, *[0.3] * len(words)), words, strict=False):
            seed = zlib.crc32(MEANINGS.get(word, word).encode())
            pooled += weight * torch.randn(32, generator=torch.Generator().manual_seed(seed))
        encoded.append(
            TextConditioning(torch.zeros(64, 1), torch.arange(64) < len(words) + 2, pooled)
        )
    return encoded


def test_words_name_nothing_of_the_vocabulary_and_are_words(data: Path) -> None:
    words = load_words(data, load_concepts(data, "full"))
    usual = {*words, *load_words(data, load_concepts(data, "full"), held_out=True)}
    assert {"woman", "kangaroo", "spoon", "umbrella stand", "left-facing fist"} <= usual
    assert not {"fox", "ok", "family: two", "a very long name"} & usual
    assert {"golden retriever", "tench"} <= usual  # of ImageNet


def test_a_tenth_of_the_words_is_kept_from_training(data: Path) -> None:
    concepts = load_concepts(data, "full")
    training, held_out = load_words(data, concepts), load_words(data, concepts, held_out=True)
    assert not set(training) & set(held_out)
    assert len(held_out) / (len(training) + len(held_out)) == pytest.approx(
        HELD_OUT_WORDS, abs=0.03
    )


def test_no_word_has_a_part_of_a_name_that_is_held_out(data: Path) -> None:
    concepts = load_concepts(data, "full")
    names = held_out_keywords(concepts)
    assert names["turtle"] == "a tortoise"
    (data / "words.json").write_text(
        json.dumps([*WORDS, "tortoise", "giant tortoises", "cheese burger"])
    )
    try:
        words = {*load_words(data, concepts), *load_words(data, concepts, held_out=True)}
    finally:
        (data / "words.json").write_text(json.dumps(WORDS))
    assert "kangaroo" in words
    assert not [word for word in words if "tortoise" in word or "burger" in word.split()]


def test_without_words_it_says_what_to_run(tmp_path: Path) -> None:
    data = write_fake_data(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"training\.prepare .* again"):
        load_words(data, load_concepts(data, "full"))


def test_phrases_are_nearest_to_what_they_are_drawn_as_whatever_the_medium(data: Path) -> None:
    concepts = load_concepts(data, "full")
    found = label_phrases(encode, concepts, ["kangaroo", "woman", "spoon"], count=600, seed=3)
    assert found == label_phrases(
        encode, concepts, ["kangaroo", "woman", "spoon"], count=600, seed=3
    )
    nearest = nearest_name(encode, concepts)
    assert [*map(nearest.of, ("a kangaroo", "a woman", "a spoon"))] == ["fox", "owl", "scissors"]
    assert "a photo of a kangaroo" in found["fox"]  # though "photo" alone means the radio
    every = [text for texts in found.values() for text in texts]
    women = {
        text
        for text in every
        if text.startswith(("a woman in the", "a portrait of a woman in the"))
    }
    assert women
    assert women <= set(found["owl"])
    assert all(
        "kangaroo" in text or "fox" in text or "in the rain" in text for text in found["fox"]
    )
    # A thing of the vocabulary remains itself in any circumstances.
    known = {text for text in every if "a cactus" in text}
    assert known
    assert known <= set(found["cactus"])
    assert all(c.num_tokens <= MOST_POSITIONS for c in encode(every))


def test_phrases_are_the_same_for_a_seed_and_vary(data: Path) -> None:
    concepts = load_concepts(data, "full")
    one, other = (
        [make_phrase(rng, WORDS, concepts) for _ in range(200)] for rng in (Random(1), Random(1))
    )
    assert one == other
    assert len({phrase.text for phrase in one}) > 100
    assert all(
        phrase.label is None for phrase in (make_phrase(Random(i), WORDS) for i in range(200))
    )


def test_half_of_the_captions_of_single_objects_are_phrases(data: Path) -> None:
    phrases = {"fox": ["a kangaroo", "a wolf at night"], "banana": ["a monkey"]}
    usual = SceneGenerator(data, seed=5, vocabulary="full", max_objects=2)
    generator = SceneGenerator(data, seed=5, vocabulary="full", max_objects=2, phrases=phrases)
    said, alone, foxes = 0, 0, 0
    for index in range(3000):
        scene, captions = generator.scene(index), generator.captions(index, 3)
        assert captions[0] == scene.caption
        assert (
            scene.objects == usual.scene(index).objects
        )  # the pictures are the same, only words differ
        single, label = len(scene.objects) == 1, scene.objects[0].concept.label
        texts = phrases.get(label, []) if single else []
        others = [text for p in phrases.values() for text in p if text not in texts]
        for caption in map(str.lower, captions):
            assert not any(text in caption for text in others)
            foxes += bool(texts)
            said += any(text in caption for text in texts)
            alone += caption in texts
    assert said / foxes == pytest.approx(0.5, abs=0.06)
    assert alone / said == pytest.approx(0.5, abs=0.08)


def test_splits_of_others_ask_for_the_nearest_thing(data: Path) -> None:
    splits = make_splits(data, vocabulary="full", pictures=5, seed=9, two=False, encode=encode)
    concepts = load_concepts(data, "full")
    training, nearest = load_words(data, concepts), nearest_name(encode, concepts)
    for name in ("others", "phrases"):
        split = splits[name]
        assert len(split.scenes) == len(split.captions) == 5
        assert split.style_and_colour == (name == "others")
    for scene, caption in zip(splits["others"].scenes, splits["others"].captions, strict=True):
        bare = without_article(caption.split(",")[0].split(" in the ")[0])
        subject = with_article(bare.removeprefix("small ").removeprefix("big "))
        assert nearest.of(subject) == scene.objects[0].concept.label
        assert not any(
            subject.endswith(f" {word}") and len(subject.split()) == 2 for word in training
        )
