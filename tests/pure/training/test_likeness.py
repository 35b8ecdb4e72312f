"""The table that the least likeness is chosen by."""

from __future__ import annotations

from pathlib import Path

from star_model.nearest_name import Likeness
from star_model.vocabulary import Vocabulary
from tests.training.fake_data import write_fake_data
from training.concepts import held_out_keywords, load_concepts
from training.likeness import Row, best, phrases, table

MEANT = [
    ("a fox", Likeness("a fox", 0.9)),
    ("a fox", Likeness("an owl", 0.5)),
    ("a car", Likeness("a car", 0.6)),
    ("a car", Likeness("a car", 0.3)),
]
FOREIGN = [Likeness("a fox", 0.2), Likeness("an owl", 0.55)]


def test_each_row_has_what_a_threshold_does() -> None:
    assert table(MEANT, FOREIGN, [0.4, 0.6, 0.95]) == [
        Row(0.4, right=0.5, wrong=0.25, declined=0.5),
        Row(0.6, right=0.5, wrong=0.0, declined=1.0),
        Row(0.95, right=0.0, wrong=0.0, declined=1.0),
    ]


def test_the_best_row_is_right_most_often() -> None:
    assert best(table(MEANT, FOREIGN, [0.4, 0.6, 0.95])).threshold == 0.6


def test_held_out_names_are_in_one_set_and_what_is_never_drawn_in_the_other(tmp_path: Path) -> None:
    data = write_fake_data(tmp_path)
    concepts = load_concepts(data, "full")
    held = held_out_keywords(concepts)
    names = {c.phrase: tuple(n for n in c.synonyms if n != held.get(c.label)) for c in concepts}
    meant, foreign = phrases(data, "full", Vocabulary(names, ("a",)))
    assert meant
    assert set(meant) == set(held.values())
    assert "a robot" in foreign
    assert not set(foreign) & set(names)
