"""Taking a prompt apart: its things, style and background, and the clauses that are none of these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from star_model.english import (
    AROUND,
    FILLERS,
    GROUPING,
    JOINING,
    MEDIA,
    NOT_DOING,
    OF_MEDIA,
    PAIRING,
    PLACES,
    PLAIN_MEDIA,
)
from star_model.lexicon import Key, Lexicon, key_of, span, tokens_of

Mark = Literal["thing", "style", "background", "medium", "filler"]

_SIDES: tuple[Key, ...] = (
    ("to", "left", "of"), ("to", "right", "of"), ("left", "of"), ("right", "of"), ("next", "to"), ("close", "to"),
)  # fmt: skip
_FRONT: tuple[Key, ...] = (("in", "front", "of"), ("on", "top", "of"), ("at", "side", "of"))


@dataclass
class Clause:
    """A connective and what it connects: "on" and "the moon", "and" and "a dog".

    Args:
        connective: words such as a preposition; none of what begins a sentence.
        body: the words after it, marked ones included.
    """

    connective: list[int] = field(default_factory=list)
    body: list[int] = field(default_factory=list)

    @property
    def words(self) -> list[int]:
        """All words of the clause."""
        return [*self.connective, *self.body]


class Parts:
    """A prompt taken apart.

    Args:
        text: the prompt, its typing errors corrected.
        lexicon: of the model.

    Attributes:
        tokens: its words without articles.
        marks: what each word belongs to; None for what is neither thing nor style nor background.
        things: index of a thing's first word -> number of its words, and its phrase.
        style: that it asks for, or "".
        colours: of the background that it asks for: none, one, or two of a gradient.
        backdrop: that it asks for, or "".
        unknown_background: what it asks for as background and the model has not, or "".
        media: words for the sort of picture that it asks for and that captions do not use.
        clauses: what is left, marked words included, in order.
    """

    def __init__(self, text: str, lexicon: Lexicon) -> None:
        self.text, self.lexicon = text, lexicon
        self.tokens = tokens_of(text)
        self.words = [token.word for token in self.tokens]
        self.marks: list[Mark | None] = [None] * len(self.tokens)
        self.things: dict[int, tuple[int, str]] = {}
        self.style, self.backdrop, self.unknown_background = "", "", ""
        self.colours: tuple[str, ...] = ()
        self.media: list[str] = []
        self._mark_backdrop()
        self._mark_colours()
        self._mark_things()
        self._mark_style()
        self._mark_media()
        self._mark_fillers()
        self.clauses = self._split()

    def shown(self, indices: Sequence[int]) -> str:
        """These words as they stand in the prompt."""
        return span(self.text, [self.tokens[i] for i in indices])

    def things_in(self, indices: Sequence[int]) -> list[str]:
        """The things among these words."""
        return [self.things[i][1] for i in indices if i in self.things]

    def loose(self, indices: Sequence[int]) -> list[int]:
        """Those of these words that belong to nothing known."""
        return [i for i in indices if self.marks[i] is None and not self._is_known(i)]

    # Marking, from what is longest and surest on.

    def _free(self, start: int) -> list[str]:
        """As many words from ``start`` on as a phrase may have, up to the next break or marked word."""
        end, last = start, min(start + self.lexicon.longest, len(self.tokens))
        while end < last and self.marks[end] is None:
            if end > start and self.tokens[end].breaks:
                break
            end += 1
        return self.words[start:end]

    def _set(self, start: int, length: int, mark: Mark) -> None:
        self.marks[start : start + length] = [mark] * length

    def _mark_backdrop(self) -> None:
        for start in range(len(self.words)):
            if (found := self.lexicon.match(self.lexicon.backdrops, self._free(start))) is None:
                continue
            length, self.backdrop = found
            self._set(start, length, "background")
            break

    def _mark_colours(self) -> None:
        text, starts = "", []
        for token in self.tokens:
            text += ", " if token.breaks else " "
            starts.append(len(text))
            text += token.word
        for pattern in _backgrounds(tuple(self.lexicon.colours)) if self.lexicon.colours else ():
            if found := pattern.search(text):
                self.colours = tuple(
                    self.lexicon.colours[tuple(group.split())] for group in found.groups()
                )
                self._mark_span(starts, found.span())
                return
        if self.backdrop:
            return
        places = {" ".join(key_of(name)): name for name in self.lexicon.vocabulary.backdrops}
        if places and (found := _named_background(places).search(text)):
            self.backdrop = places[found.group(1)]
            self._mark_span(starts, found.span())
        elif found := _ANY_BACKGROUND.search(text):
            self._mark_span(starts, found.span())
            self.unknown_background = found.group(1).strip()
            if name := self.lexicon.backdrop_like(self.unknown_background.split()):
                self.backdrop, self.unknown_background = name, ""

    def _mark_span(self, starts: list[int], found: tuple[int, int]) -> None:
        for index, start in enumerate(starts):
            if found[0] <= start < found[1]:
                self.marks[index] = "background"

    def _mark_things(self) -> None:
        start = 0
        while start < len(self.words):
            found = self.lexicon.match(self.lexicon.things, self._free(start))
            if found is not None:
                self.things[start] = found
                self._set(start, found[0], "thing")
            start += found[0] if found else 1

    def _mark_style(self) -> None:
        for start in range(len(self.words)):
            found = self.lexicon.match(self.lexicon.styles, self._free(start))
            if found is None:
                continue
            length, self.style = found
            self._set(start, length, "style")
            end = start + length
            if end < len(self.words) and self.words[end] in MEDIA and self.marks[end] is None:
                self.marks[end] = "style"
                end += 1
            if end < len(self.words) and self.words[end] == "of":
                self.marks[end] = "style"
            if start and self.words[start - 1] in ("in", "as") and self.marks[start - 1] is None:
                self.marks[start - 1] = "style"
            return

    def _mark_media(self) -> None:
        """Mark what a prompt says of the picture itself: a photo of, oil painting, in the style of."""
        for index, word in enumerate(self.words):
            if word not in MEDIA or self.marks[index] is not None:
                continue
            before = index
            while before and self.marks[before - 1] is None and self.words[before - 1] in OF_MEDIA:
                before -= 1
            if word not in PLAIN_MEDIA or before < index:
                self.media.append(" ".join(self.words[before : index + 1]))
            self._set(before, index + 1 - before, "medium")
            following = self.words[index + 1 : index + 2]
            if following and following[0] in ("of", "with", "showing"):
                self.marks[index + 1] = "medium"

    def _mark_fillers(self) -> None:
        for index, word in enumerate(self.words):
            if word in GROUPING and self.words[index + 1 : index + 2] == ["of"]:
                if self.marks[index : index + 2] == [None, None]:  # "a group of foxes"
                    self._set(index, 2, "filler")
                continue
            if self.marks[index] is None and word in FILLERS and word not in self.lexicon.captions:
                self.marks[index] = "filler"

    # Splitting.

    def _split(self) -> list[Clause]:
        clauses = [Clause()]
        index = 0
        while index < len(self.words):
            mark, clause = self.marks[index], clauses[-1]
            if mark in ("style", "background", "medium") or self.tokens[index].breaks:
                if clause.words:
                    clauses.append(clause := Clause())
                if mark in ("style", "background", "medium"):
                    index += 1
                    continue
            length = self._connective(index, clause)
            if length and clause.body:
                clauses.append(clause := Clause())
            if length:
                clause.connective += range(index, index + length)
            elif mark != "filler":
                clause.body.append(index)
            index += length or 1
        return [clause for clause in clauses if clause.words]

    def _connective(self, index: int, clause: Clause) -> int:
        """Number of words of the connective at ``index``; 0 if there is none."""
        if self.marks[index] is not None:
            return 0
        for key in (*_SIDES, *_FRONT):
            if tuple(self.words[index : index + len(key)]) == key:
                return len(key)
        word = self.words[index]
        return int(word in PLACES or word in JOINING or self._is_doing(word, clause))

    def _is_doing(self, word: str, clause: Clause) -> bool:
        """Whether a word says what the thing of a clause does: "a fox jumping"."""
        if not word.endswith("ing") or len(word) <= 5 or word in NOT_DOING:
            return False
        plain = self.lexicon.colours
        named = (i for i in clause.body if self.marks[i] == "thing" or i in self.loose([i]))
        return any((self.words[i],) not in plain for i in named)

    def _is_known(self, index: int) -> bool:
        word = self.words[index]
        return word in self.lexicon.sizes or (
            (word in AROUND or word in FILLERS) and word in self.lexicon.captions
        )

    def is_place(self, clause: Clause) -> bool:
        """Whether a clause says where: "on the moon"."""
        words = [self.words[i] for i in clause.connective]
        doing = any(word.endswith("ing") for word in words)
        return any(word in PLACES for word in words) and not doing and not self.is_pairing(clause)

    def is_pairing(self, clause: Clause) -> bool:
        """Whether a clause puts a further thing beside the first: "and a dog", "next to a dog"."""
        words = tuple(self.words[i] for i in clause.connective)
        if self.lexicon.vocabulary.max_things == 1:
            return words in ((), ("and",), ("with",), *_SIDES) or set(words) <= {"and", "plus", "&"}
        return words == ("with",) or words in _SIDES or set(words) <= PAIRING


_WHERE = r"\b(?:(?:on|with|in front of|against|in|over) )?"
_ANY_BACKGROUND = re.compile(rf"{_WHERE}((?:[^\W_]+ ){{1,2}}?)(?:background|backdrop)\b")


def _named_background(names: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"{_WHERE}({'|'.join(map(re.escape, names))}) (?:background|backdrop)\b")


def _backgrounds(colours: tuple[Key, ...]) -> list[re.Pattern[str]]:
    words = sorted((" ".join(colour) for colour in colours), key=len, reverse=True)
    colour = f"({'|'.join(map(re.escape, words))})"
    return [
        re.compile(pattern)
        for pattern in (
            rf"{_WHERE}(?:gradient|background fading|background) from {colour} to {colour}\b(?: background)?",
            rf"{_WHERE}{colour} (?:to|and) {colour} gradient(?: background)?\b",
            rf"{_WHERE}{colour} (?:background|backdrop)\b",
            rf"\b(?:on|against) {colour}(?=$|,)",
        )
    ]
