"""What a model is exported with: the vocabulary that it was trained on, nothing held out, and words for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from star_model.about import About, read_about
from star_model.prompt_reader import PromptReader
from star_model.vocabulary import words_of
from tests.training.fake_data import CONCEPTS, write_fake_data
from training import export
from training.backdrops import BACKDROPS
from training.captions import COLOUR_WORDS
from training.concepts import held_out_keywords, load_concepts
from training.export import describe, vocabulary_of
from training.scenes import FOR_TRANSFORMER, SceneGenerator
from training.sources import STYLES

DATA = About("Draws 3 things.", ("a fox", "an owl"))


def test_the_vocabulary_is_what_training_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "CAPTIONS", 3000)
    data = write_fake_data(tmp_path)
    concepts, vocabulary = load_concepts(data, "full"), vocabulary_of(data, "full")
    names = {name for phrase, others in vocabulary.names.items() for name in (phrase, *others)}
    held_out = held_out_keywords(concepts)
    assert set(vocabulary.names) == {concept.phrase for concept in concepts}
    assert len(vocabulary.names) == len(CONCEPTS)
    assert held_out
    assert not names & set(held_out.values())
    assert "tortoise" not in vocabulary.words
    generator = SceneGenerator(data, seed=7, vocabulary="full", max_objects=2)
    said = {word for i in range(300) for word in words_of(generator.scene(i).caption)}
    assert said <= set(vocabulary.words)
    assert vocabulary.least_likeness == export.LIKENESS["full"] > export.LIKENESS["starter"]
    assert vocabulary.styles == STYLES
    assert set(vocabulary.colours) == {word for words in COLOUR_WORDS.values() for word in words}


def test_each_caption_of_training_is_read_as_its_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "CAPTIONS", 3000)
    data = write_fake_data(tmp_path)
    reader = PromptReader(vocabulary_of(data, "full", max_things=2), by_letters)
    generator = SceneGenerator(
        data, seed=8, vocabulary="full", max_objects=2, variety=FOR_TRANSFORMER
    )
    read = 0
    for scene in map(generator.scene, range(400)):
        reading = reader.read(scene.caption)
        things = {placed.concept.phrase for placed in scene.objects}
        kind = scene.objects[0].concept.kind
        if len(things) == 1 and kind is not None and things != set(reading.things):
            assert kind in scene.caption, scene.caption
            continue
        assert set(reading.things) == things, scene.caption
        assert reading.style in ("", scene.style), scene.caption
        assert not reading.unknown
        words = scene.caption.lower()
        assert (reading.style != "") == any(style in words for style in STYLES), scene.caption
        if scene.background.kind == "backdrop":
            assert reading.background in ("", BACKDROPS[scene.background.colours[0]][0])
        else:
            known = COLOUR_WORDS[scene.background.colours[0]]
            assert reading.background == "" or any(w in reading.background for w in known)
            assert (reading.background != "") == any(w in words for w in known), scene.caption
        read += reading.prompt == scene.caption
    assert read > 300, "what is understood is left as it is; only key words and kinds are not"


def test_an_export_says_what_the_data_say(tmp_path: Path) -> None:
    describe(tmp_path, DATA, None, None)
    assert read_about(tmp_path) == DATA


def test_a_licence_is_stated_and_stays(tmp_path: Path) -> None:
    describe(tmp_path, DATA, None, "MIT")
    assert read_about(tmp_path) == About(DATA.description, DATA.examples, "MIT")
    describe(tmp_path, About("Draws more."), None, None)
    assert read_about(tmp_path).description == DATA.description, "what is there is kept"
    describe(tmp_path, DATA, "Draws foxes.", None)
    assert read_about(tmp_path) == About("Draws foxes.", DATA.examples, "MIT")
    describe(tmp_path, About("Draws more."), None, "Apache-2.0")
    assert read_about(tmp_path) == About("Draws foxes.", DATA.examples, "Apache-2.0")


def by_letters(texts: Sequence[str]) -> Tensor:
    """Features that differ from text to text."""
    counts = [[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
    return torch.tensor(counts, dtype=torch.float32)
