"""Everyday words for what vocabularies may have, beside the words of their captions (``everyday.json``).

They are no part of any ``vocabulary.json``, which lists what a model has been taught: what is asked for in these
words is encoded in the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pydantic import TypeAdapter


@dataclass(frozen=True)
class Everyday:
    """What people say.

    Args:
        names: phrase for a thing -> further names for it.
        colours: phrase for a thing -> colours that it is drawn in, whatever is asked for.
        others: names that a text encoder finds like those of other things, and that are never read by meaning.
        places: name of a backdrop -> words for such a place.
    """

    names: dict[str, list[str]]
    colours: dict[str, list[str]]
    others: list[str]
    places: dict[str, list[str]]


@cache
def everyday_words() -> Everyday:
    """Read the file."""
    text = files("star_model").joinpath("everyday.json").read_text(encoding="utf-8")
    return TypeAdapter(Everyday).validate_json(text)
