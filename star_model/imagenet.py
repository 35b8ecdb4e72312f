"""The classes of ImageNet by number, name or synonym, without torch.

The names are in ``imagenet_classes.tsv``, which gives their source.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from star_model.errors import UnknownClassError

_NEAREST = 5
_SHOWN = 60


@dataclass(frozen=True)
class ImageNetClass:
    """One class.

    Args:
        number: index of the class in class-conditional models, 0 to 999.
        wordnet_id: such as ``n01440764``.
        names: synonyms, the usual name first.
        definition: a phrase, from WordNet.
    """

    number: int
    wordnet_id: str
    names: tuple[str, ...]
    definition: str

    @property
    def meaning(self) -> str:
        """The first part of the definition."""
        return self.definition.partition(";")[0]


@cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """All 1,000 classes in order."""
    text = files("star_model").joinpath("imagenet_classes.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return tuple(
        ImageNetClass(number, wordnet_id, tuple(names.split(", ")), definition)
        for number, (wordnet_id, names, definition) in enumerate(rows)
    )


def find_class(text: str, num_classes: int = 1000) -> ImageNetClass:
    """Find the class that ``text`` names: by number, WordNet id, or name in any case, with or without an article.

    A name that is the usual one of one class and a synonym of another means the former.

    Args:
        text: the user's prompt.
        num_classes: number of classes of the model, which are the first of ImageNet's.

    Raises:
        UnknownClassError: listing the candidates if the name is ambiguous, or else the nearest names.
    """
    classes, given = imagenet_classes()[:num_classes], text.strip()
    shown = given if len(given) <= _SHOWN else given[:_SHOWN] + "..."
    if re.fullmatch(r"[+-]?\d+", given):
        # Python refuses to read a number of thousands of digits, and no class has so many.
        if given.isdecimal() and len(given) <= _SHOWN and int(given) < num_classes:
            return classes[int(given)]
        raise UnknownClassError(
            f"there is no class {shown}: the classes are 0 to {num_classes - 1}"
        )
    wanted = _normalized(given)
    readings = list(zip(classes, _normalized_names(), strict=False))
    usual = [c for c, names in readings if wanted in (c.wordnet_id, names[0])]
    found = usual or [c for c, names in readings if wanted in names]
    if len(found) == 1:
        return found[0]
    if found:
        meanings = "; ".join(f"{c.number} is {', '.join(c.names)}: {c.meaning}" for c in found)
        raise UnknownClassError(
            f"{shown!r} names {len(found)} ImageNet classes; give a number instead: {meanings}"
        )
    near = " or ".join(f"{name} ({number})" for name, number in _nearest(wanted, classes).items())
    raise UnknownClassError(
        f"{shown!r} is not the name of an ImageNet class; did you mean {near}? "
        f"A number from 0 to {num_classes - 1} works too"
    )


@cache
def _normalized_names() -> tuple[tuple[str, ...], ...]:
    """The normalized names of all 1,000 classes in order, the usual one first."""
    return tuple(tuple(map(_normalized, c.names)) for c in imagenet_classes())


def _normalized(name: str) -> str:
    """``name`` in lower case, words separated by one space, without an article in front."""
    words = re.sub(r"[\s_-]+", " ", name.casefold()).strip()
    return re.sub(r"^(an?|the) (?=.)", "", words)


def _nearest(wanted: str, classes: tuple[ImageNetClass, ...]) -> dict[str, int]:
    """Names similar to ``wanted`` with their classes: those that share a word, then those with similar spelling."""
    usual = {c.names[0]: c.number for c in classes}
    names = usual | {name: c.number for c in classes for name in c.names[1:] if name not in usual}
    words = set(wanted.split())
    sharing = {name: len(words & set(_normalized(name).split())) for name in names}
    best = sorted((name for name in names if sharing[name]), key=lambda name: -sharing[name])
    alike = difflib.get_close_matches(wanted, names, n=_NEAREST, cutoff=0.0)
    return {name: names[name] for name in list(dict.fromkeys([*best, *alike]))[:_NEAREST]}
