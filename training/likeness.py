"""How like a name must be to stand for a thing: ``python -m training.likeness``.

:attr:`star_model.vocabulary.Vocabulary.least_likeness` divides what is asked for in other words from what the model
cannot draw. Two sets of phrases show where: the names that were held out of training (`training.concepts`), each of
which means one of the vocabulary's things, and the names of things that the vocabulary lacks: with ``starter``, all
other drawings; with any, the names in ``training/vocabulary/never.txt``, none of which is ever drawn. For each
threshold the table has, of the first set, the shares that are read as the right and as another thing; of the second,
the share that is declined.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from star_model.checkpoints.native import read_config
from star_model.lexicon import key_of
from star_model.native_files import TEXT_ENCODER
from star_model.nearest_name import Likeness, NearestName
from star_model.networks.text_encoder import load_text_encoder
from star_model.vocabulary import Vocabulary, read_vocabulary, with_article, without_article
from training.concepts import held_out_keywords, load_concepts
from training.machine import command

THRESHOLDS = tuple(round(0.4 + 0.05 * step, 2) for step in range(11))
"""Of which the table has a row each."""


@dataclass(frozen=True)
class Row:
    """What one threshold does, as shares from 0 to 1.

    Attributes:
        threshold: least likeness.
        right: held-out names that are read as what they mean.
        wrong: held-out names that are read as another thing.
        declined: names of what is not in the vocabulary for which nothing is drawn.
    """

    threshold: float
    right: float
    wrong: float
    declined: float


def table(
    meant: Sequence[tuple[str, Likeness]],
    foreign: Sequence[Likeness],
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[Row]:
    """One row for each threshold.

    Args:
        meant: what each held-out name means, and what is nearest to it; at least one.
        foreign: what is nearest to each name of what the vocabulary lacks; at least one.
        thresholds: of the rows.
    """
    rows = []
    for least in thresholds:
        taken = [thing == near.thing for thing, near in meant if near.value >= least]
        declined = sum(near.value < least for near in foreign)
        right, wrong = sum(taken), len(taken) - sum(taken)
        rows.append(Row(least, right / len(meant), wrong / len(meant), declined / len(foreign)))
    return rows


def best(rows: Sequence[Row]) -> Row:
    """The row with the most answers that are right: read as meant, or declined; the two sets weigh the same."""
    return max(rows, key=lambda row: row.right - row.wrong + row.declined)


def phrases(data: Path, vocabulary: str, known: Vocabulary) -> tuple[dict[str, str], list[str]]:
    """Held-out names -> phrases of their things, and names of what the vocabulary lacks.

    Args:
        data: what training.prepare wrote.
        vocabulary: which things the model was trained on.
        known: the model's vocabulary; a name that it has is in neither set.
    """
    names = {key_of(n) for thing, others in known.names.items() for n in (thing, *others)}
    concepts = load_concepts(data, vocabulary)
    held = held_out_keywords(concepts)
    phrase = {concept.label: concept.phrase for concept in concepts}
    meant = {name: phrase[label] for label, name in held.items() if phrase[label] in known.names}
    others = [c.phrase for c in load_concepts(data, "full") if c.label not in phrase]
    lines = (Path(__file__).parent / "vocabulary" / "never.txt").read_text(encoding="utf-8")
    others += [with_article(line) for line in lines.splitlines() if line]
    foreign = [name for name in others if key_of(name) not in names]
    return {name: thing for name, thing in meant.items() if key_of(name) not in names}, foreign


@command
def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(
        description="Choose how like a name must be to stand for a thing."
    )
    parser.add_argument("--model", type=Path, default=Path("weights/star-mini"))
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    parser.add_argument("--vocabulary", default="starter", help="which things it was trained on")
    arguments = parser.parse_args()
    known = read_vocabulary(arguments.model)
    if known is None:
        parser.error(f"{arguments.model} has no vocabulary.json")
    config = read_config(arguments.model).text_encoder
    folder, cpu = arguments.model / TEXT_ENCODER, torch.device("cpu")
    encoder = load_text_encoder(folder, config, device=cpu, dtype=torch.float32)
    meant, foreign = phrases(arguments.data, arguments.vocabulary, known)
    names = {thing: (thing, *others) for thing, others in known.names.items()}
    nearest = NearestName(names, encoder.pooled)

    def near(name: str) -> Likeness:
        return nearest.order(with_article(without_article(name)))[0]

    rows = table([(thing, near(name)) for name, thing in meant.items()], list(map(near, foreign)))
    print(f"{len(meant)} held-out names, {len(foreign)} names of what the vocabulary lacks\n")
    print("| least likeness | meant, right | meant, wrong | lacking, declined |")
    print("| --- | --- | --- | --- |")
    for row in rows:
        mark = "**" if row == best(rows) else ""
        print(
            f"| {mark}{row.threshold:.2f}{mark} | {row.right:.0%} | {row.wrong:.0%} | {row.declined:.0%} |"
        )


if __name__ == "__main__":
    main()
