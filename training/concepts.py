"""What can be drawn, and what it may be called.

Names come from emojibase (labels and keywords, stored by `training.prepare`) and from a curated table,
`vocabulary/names.json`, where the label is no phrase that a person would write. A vocabulary is a list of
labels; a name that would fit two concepts of the vocabulary in use belongs to neither, so "a dog" means the
dog's face as long as no whole dog is drawn.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

#: emojibase's group numbers, of those that are used, and their names.
GROUPS: dict[int, str] = {
    3: "animals-nature",
    4: "food-drink",
    5: "travel-places",
    6: "activities",
    7: "objects",
}

#: Share of the (concept, style) and of the (concept, colour) pairs that training never sees.
HELD_OUT_PAIRS = 0.05
#: Share of the concepts for which one synonym is never used in training.
HELD_OUT_KEYWORDS = 0.4

_VOCABULARY = Path(__file__).parent / "vocabulary"
_AN = ("a", "e", "i", "o", "u")
_NOT_AN = ("unicorn", "ukulele", "uni", "use", "one", "euro", "ewe", "ufo")
_AN_ALTHOUGH = ("hourglass", "x-ray", "suv", "honest")
_SINGULAR_ENDINGS = ("ss", "us", "is")  # of words that end in s and are no plurals
_UNCOUNTED = ("food",)


@dataclass(frozen=True)
class Concept:
    """One thing that can be drawn.

    Attributes:
        label: emojibase's label, the key of the drawings ("red apple").
        phrase: noun phrase with its article, as a plain caption has it ("a red apple", "grapes").
        synonyms: further noun phrases, each naming this concept alone within its vocabulary.
        keywords: single words about it, which may fit others too.
        group: one of `GROUPS`.
        kind: what sort of thing it is ("fruit"), without article; None where no such word is safe.
        mirrorable: False for drawings with writing, or whose direction is their meaning.
    """

    label: str
    phrase: str
    synonyms: tuple[str, ...]
    keywords: tuple[str, ...]
    group: str
    kind: str | None
    mirrorable: bool


def read_vocabulary(name: str) -> tuple[str, ...]:
    """Labels of `vocabulary/NAME.txt`, one a line, blank lines left out. Raises FileNotFoundError."""
    lines = (_VOCABULARY / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def with_article(noun: str) -> str:
    """`noun` with "a" or "an", or without where it is a plural (by its ending) or uncounted.

    >>> with_article("umbrella"), with_article("unicorn"), with_article("jeans"), with_article("octopus")
    ('an umbrella', 'a unicorn', 'jeans', 'an octopus')
    """
    last = noun.split(" with ")[0].split()[-1]
    if noun in _UNCOUNTED or (last.endswith("s") and not last.endswith(_SINGULAR_ENDINGS)):
        return noun
    lower = noun.lower()
    vowel = lower.startswith(_AN) and not lower.startswith(_NOT_AN)
    return f"an {noun}" if vowel or lower.startswith(_AN_ALTHOUGH) else f"a {noun}"


def without_article(phrase: str) -> str:
    """A noun phrase without its leading article: "a red apple" -> "red apple"."""
    first, _, rest = phrase.partition(" ")
    return rest if first in ("a", "an", "the") and rest else phrase


@cache
def _names() -> Mapping[str, Any]:
    return cast(
        Mapping[str, Any], json.loads((_VOCABULARY / "names.json").read_text(encoding="utf-8"))
    )


def _names_of(label: str) -> list[str]:
    """All names of a label, the preferred one first; the last resort is the label itself."""
    curated = list(_names()["names"].get(label, ()))
    return curated or [with_article(label)]


def _keywords_of(entry: Mapping[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    """Tags that say something the names do not, without the emoji's slang."""
    said = {
        word for name in (*names, entry["label"]) for word in name.lower().replace("-", " ").split()
    }
    stop = frozenset(_names()["not_keywords"])
    return tuple(
        tag for tag in entry["tags"] if len(tag) > 2 and tag not in said and tag not in stop
    )


def build_concepts(entries: Sequence[Mapping[str, Any]]) -> tuple[Concept, ...]:
    """Concepts of one vocabulary, from emojibase's entries (label, group, subgroup, tags).

    Raises:
        ValueError: every name of some concept is taken by others.
    """
    table = _names()
    labels = {entry["label"].lower() for entry in entries}
    candidates = {entry["label"]: _names_of(entry["label"]) for entry in entries}
    claims = Counter(name for names in candidates.values() for name in set(names))
    concepts = []
    for entry in entries:
        label: str = entry["label"]
        names = [
            name
            for name in candidates[label]
            if (bare := without_article(name).lower()) == label.lower()
            or (claims[name] == 1 and bare not in labels)
        ]
        if not names:
            raise ValueError(f"no name is left for {label!r}: give it one of its own in names.json")
        kind = table["kinds"].get(label)
        if kind is None and label not in table["without_kind"]:
            kind = table["kinds_of_subgroups"].get(entry["subgroup"])
        concepts.append(
            Concept(
                label=label,
                phrase=names[0],
                synonyms=tuple(names[1:]),
                keywords=_keywords_of(entry, names),
                group=entry["group"],
                kind=kind,
                mirrorable=label not in table["never_mirrored"],
            )
        )
    return tuple(concepts)


def load_concepts(data: Path, vocabulary: str = "starter") -> tuple[Concept, ...]:
    """Concepts of a vocabulary, in its order; "full" is every concept that has been prepared in `data`.

    Raises:
        FileNotFoundError: the data has not been prepared, or there is no such vocabulary.
        ValueError: the vocabulary names a concept that is not in the data.
    """
    path = data / "emojibase.json"
    if not path.exists():
        raise FileNotFoundError(f"no {path}: run `python -m training.prepare --out {data}`")
    entries = {entry["label"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}
    labels = tuple(entries) if vocabulary == "full" else read_vocabulary(vocabulary)
    unknown = [label for label in labels if label not in entries]
    if unknown:
        raise ValueError(
            f"vocabulary {vocabulary!r} names what the data does not hold: {', '.join(unknown)}"
        )
    return build_concepts([entries[label] for label in labels])


def stable_hash(*parts: str) -> float:
    """A number in [0, 1) that depends on the parts alone: the same in every process and release."""
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def held_out_styles(
    concepts: Iterable[Concept], styles: Sequence[str]
) -> frozenset[tuple[str, str]]:
    """(label, style) pairs that training never sees; at most one a concept, which is seen in the others."""
    held = set()
    for concept in concepts:
        drawn = min((stable_hash("style", concept.label, style), style) for style in styles)
        if drawn[0] < HELD_OUT_PAIRS:
            held.add((concept.label, drawn[1]))
    return frozenset(held)


def held_out_colours(
    concepts: Iterable[Concept], colours: Iterable[str]
) -> frozenset[tuple[str, str]]:
    """(label, background colour) pairs that training never sees."""
    names = tuple(colours)
    return frozenset(
        (concept.label, colour)
        for concept in concepts
        for colour in names
        if stable_hash("colour", concept.label, colour) < HELD_OUT_PAIRS
    )


def held_out_keywords(concepts: Iterable[Concept]) -> dict[str, str]:
    """Label -> the synonym that no training caption uses, for the concepts that have one held out.

    Only a synonym with a word that the usual phrase and the label lack is held out: "a panda bear" would test
    little.
    """
    held = {}
    for concept in concepts:
        if stable_hash("keyword", concept.label) >= HELD_OUT_KEYWORDS:
            continue
        usual = set(f"{concept.phrase} {concept.label}".lower().split()) | {
            "a",
            "an",
            "the",
            "of",
            "with",
        }
        other = [
            name for name in concept.synonyms if not set(name.lower().split()) & usual - {"a", "an"}
        ]
        if other:
            held[concept.label] = min(
                other, key=lambda name: stable_hash("keyword", concept.label, name)
            )
    return held
