"""What a model is exported with: the vocabulary that it was trained on, and nothing that was held out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from star_model.vocabulary import words_of
from tests.training.fake_data import CONCEPTS, write_fake_data
from training import export
from training.captions import COLOUR_WORDS
from training.concepts import held_out_keywords, load_concepts
from training.export import vocabulary_of
from training.scenes import SceneGenerator
from training.sources import STYLES


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
    assert vocabulary.styles == STYLES
    assert set(vocabulary.colours) == {word for words in COLOUR_WORDS.values() for word in words}
