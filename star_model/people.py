"""Words for people, so that nobody is ever answered with a thing that the words are like.

A text encoder finds a likeness between any two words. For a person or a group of people that likeness is an insult
when it names an animal or a food, so these words are never ranked by it. They stand in ``people.txt``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Literal, get_args

from star_model.lexicon import Key, key_of, lookup
from star_model.prompt_parts import Parts
from star_model.vocabulary import Vocabulary

Sort = Literal["person", "group", "people", "body", "not"]
"""A section of ``people.txt``: nouns for persons; words for groups by faith, descent, love or body; nations and the
like, which also stand before things; parts of the body; and phrases that are no people although a word of theirs is."""

NO_PEOPLE = "The model draws no people."
NO_SUCH_THING = "The model knows no such thing."
NO_THING = "The prompt names no thing to draw; name one, and what is behind it."

_ENDING = re.compile(
    r"\w{2,}(?:m[ae]n|wom[ae]n|boys?|girls?|persons?|people|folk|lady|ladies|mothers?|fathers?|brothers?|sisters?|child"
    r"|children|[^aeiou ]ists?)"
)
"""Compounds: "policewoman", "stepbrother", "cellist"."""
_OF_THE_READER = frozenset({"me", "us", "you", "him", "her", "them", "portrait"})
_SKINS = frozenset({"black", "white", "brown", "yellow", "red"})
"""Colours that people are called by."""
_MADE = ("building", "boat", "musical instrument", "vehicle", "aircraft", "tool")
"""Kinds of things that are neither alive nor eaten, the first to be suggested first."""


@cache
def _table() -> tuple[dict[Key, Sort], int]:
    """Key of a word or phrase -> its section, and the number of words of the longest."""
    text = files("star_model").joinpath("people.txt").read_text(encoding="utf-8")
    table: dict[Key, Sort] = {}
    section: Sort = "person"
    for line in text.splitlines():
        if line.startswith("["):
            section = next(sort for sort in get_args(Sort) if sort == line.strip("[]"))
        elif not line.startswith("#"):
            table |= {key_of(word): section for word in line.split()}
    return table, max(map(len, table))


def find_people(words: Sequence[str]) -> dict[int, Sort]:
    """Find words for people.

    Args:
        words: of a prompt, in lower case.

    Returns:
        index of each word that belongs to a name for people -> what sort of name it is.
    """
    table, longest = _table()
    found: dict[int, Sort] = {}
    start = 0
    while start < len(words):
        length, sort = 1, None
        for length in range(min(longest, len(words) - start), 0, -1):
            if sort := lookup(table, tuple(words[start : start + length])):
                break
        if sort is None and _ENDING.fullmatch(words[start]):
            sort = "person"
        if sort is not None and sort != "not":
            found |= dict.fromkeys(range(start, start + length), sort)
        start += length
    return found


def refusal_of(parts: Parts, body: Sequence[int], kind_of: Callable[[], Sequence[str]]) -> str:
    """Say why nothing may be drawn for what a noun phrase names; "" if it names no people.

    Args:
        parts: of the prompt.
        body: the words of the clause that says what is to be drawn.
        kind_of: things of the kind that the clause names, if it names one.
    """
    free = [i for i in body if parts.marks[i] in (None, "thing")]
    found = {i: s for i, s in find_people(parts.words).items() if i in free and not parts.marks[i]}
    if parts.things_in(free):
        found = {i: sort for i, sort in found.items() if sort != "body"}
    if not found:
        return NO_SUCH_THING if _names_somebody(parts, free) else ""
    first, last = min(found), free[-1]
    if last in found:  # "a woman", "a cat lady"
        return "" if parts.words[last] == "couple" and _counts(parts, last) else _no_people(parts)
    things = parts.things_in(free)
    if parts.marks[last] == "thing" or (not things and kind_of()):
        drawn = things[-1:] or list(kind_of())
        if "group" in found.values() and not _is_made(drawn, parts.lexicon.vocabulary):
            return NO_SUCH_THING
        between = [i for i in parts.loose(free) if i not in found and i > first and things]
        does = [i for i in between if (parts.words[i],) not in parts.lexicon.colours]
        return _no_people(parts) if does and found[first] == "person" else ""  # "man eats pizza"
    return _no_people(parts) if {"person", "body"} & set(found.values()) else NO_SUCH_THING


def refusal_of_unknown(parts: Parts, asked: str) -> str:
    """Say why nothing may be drawn for what is unknown; "" if the thing that is most like it may.

    Args:
        parts: of the prompt.
        asked: what it asks for; empty if it is nothing.
    """
    free = [i for i, mark in enumerate(parts.marks) if mark is None]
    words = [re.split("['’]", parts.words[i])[0] for i in free]
    found = set(find_people(words).values()) - ({"body"} if parts.things else set())
    if found or (not asked and _OF_THE_READER.intersection(parts.words)):
        return _no_people(parts)
    return "" if asked else NO_THING


def neutral_things(vocabulary: Vocabulary) -> list[str]:
    """Things to suggest to whom nothing is like what they asked for: neither alive nor eaten, as far as kinds tell."""
    kinds = [vocabulary.kinds[kind] for kind in _MADE if vocabulary.kinds.get(kind)]
    made = [things[0] for things in kinds] + [thing for things in kinds for thing in things[1:]]
    return list(dict.fromkeys([*made, *vocabulary.names]))


def _no_people(parts: Parts) -> str:
    """The reason, for a model that may know some people by name."""
    knows = any(
        find_people(key).get(len(key) - 1, "body") != "body" for key in parts.lexicon.things
    )
    return NO_SUCH_THING if knows else NO_PEOPLE


def _is_made(things: Sequence[str], vocabulary: Vocabulary) -> bool:
    made = {thing for kind in _MADE for thing in vocabulary.kinds.get(kind, ())}
    return all(thing in made for thing in things)


def _counts(parts: Parts, index: int) -> bool:
    """Whether "couple" only counts: "a couple of foxes"."""
    return parts.words[index + 1 : index + 2] == ["of"]


def _names_somebody(parts: Parts, free: Sequence[int]) -> bool:
    """Whether words that no list has may name a person: "a black", "Ada Lovelace"."""
    if parts.things_in(free):
        return False
    words = [parts.words[i] for i in free]
    if not (parts.colours or parts.backdrop) and len(words) == 1 and words[0] in _SKINS:
        return True
    return bool(_proper_names([parts.shown([i]).split()[-1] for i in free]))


def _proper_names(written: Sequence[str]) -> bool:
    """Whether two neighbours among words begin with a capital."""
    capital = [word[:1].isupper() and not word.isupper() for word in written]
    return any(one and other for one, other in pairwise(capital))
