"""The vocabulary of a model that knows few things, and replacing prompts about others by the nearest match.

A model that was trained on a few hundred names cannot draw any other, and generates a mixture. If its directory has a
``vocabulary.json``, a prompt with a word that training never used is replaced by one of known words: the thing that the
prompt names, or else the one whose name is nearest to the prompt in the text encoder's features, with the style and
the background that the prompt asks for. The conditioning records the replacement, so that the user can be told.

    {"names": {"a fox": [], "a car": ["an automobile"]},    phrase for a thing -> its other names
     "words": ["a", "background", ...],                     all words of the training captions
     "styles": ["flat", "3d"],
     "colours": ["light blue", "blue", ...]}                of backgrounds
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch.nn.functional as F
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from star_model.json_file import read_object

VOCABULARY = "vocabulary.json"

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_MEDIUM = re.compile(
    r"^\W*(?:an?\s+)?(?:[\w-]+\s+)?(?:photo|photograph|picture|image|portrait|painting|drawing|illustration|sketch|"
    r"render|rendering|model|icon|close-up|view|poster)\s+(?:of|with)\s+",
    re.IGNORECASE,
)
"""The medium that a prompt may begin with: "a photo of a fox" does not ask for a camera."""


Words = tuple[Annotated[str, Field(pattern=r"\S")], ...]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Vocabulary:
    """The names and words of a model's training captions.

    Args:
        names: a phrase for each thing -> its other names; at least one thing.
        words: all words of the captions, in lower case.
        styles: names of styles, such as "flat" in "flat style".
        colours: names of background colours.
    """

    names: Annotated[dict[str, Words], Field(min_length=1)]
    words: Words
    styles: Words = ()
    colours: Words = ()

    def save(self, directory: Path) -> None:
        """Write ``vocabulary.json``."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        (directory / VOCABULARY).write_text(text + "\n", encoding="utf-8")


def read_vocabulary(directory: Path) -> Vocabulary | None:
    """Read ``vocabulary.json`` of a model directory; None if there is none.

    Raises:
        CheckpointError: the file is not as the top of this module shows; the text says what is wrong.
    """
    file = directory / VOCABULARY
    return read_object(file, Vocabulary) if file.is_file() else None


class NearestName:
    """Nearest-neighbour search among names of things, by cosine similarity of pooled features.

    Args:
        names: thing -> its names, at least one in total.
        pooled: function from texts to the text encoder's pooled features (N, D).
    """

    def __init__(
        self, names: Mapping[str, Sequence[str]], pooled: Callable[[Sequence[str]], Tensor]
    ) -> None:
        self._pooled = pooled
        self._things = [thing for thing, called in names.items() for _ in called]
        self._features = F.normalize(
            pooled([name for called in names.values() for name in called]), dim=1
        )  # (N, D)

    def of(self, text: str, among: Set[str] = frozenset()) -> str:
        """The thing with the name nearest to ``text``; one of ``among`` unless that is empty."""
        similarities = self._features @ F.normalize(self._pooled([text])[0], dim=0)
        order: list[int] = similarities.argsort(descending=True).tolist()
        return next(self._things[i] for i in order if not among or self._things[i] in among)


class PromptReader:
    """Replaces prompts by ones that a model with a small vocabulary can draw.

    Args:
        vocabulary: of the model.
        pooled: function from texts to the text encoder's pooled features (N, D).
    """

    def __init__(self, vocabulary: Vocabulary, pooled: Callable[[Sequence[str]], Tensor]) -> None:
        self.vocabulary = vocabulary
        self._words = frozenset(vocabulary.words)
        names = {phrase: (phrase, *others) for phrase, others in vocabulary.names.items()}
        self._nearest_name = NearestName(names, pooled)
        self._phrase_of_name = {
            _ARTICLE.sub("", name).lower(): phrase
            for phrase, called in names.items()
            for name in called
        }
        self._names = re.compile(rf"\b({_any_of(self._phrase_of_name)})(?:e?s)?\b", re.IGNORECASE)
        colour = f"({_any_of(vocabulary.colours)})"
        where = r"\b(?:(?:on|with|in front of|in|against) )?(?:an? )?"
        self._backgrounds = [
            re.compile(pattern, re.IGNORECASE)
            for pattern in (
                rf"{where}(?:gradient|background fading|background) from {colour} to {colour}\b",
                rf"{where}{colour} (?:to|and) {colour} gradient(?: background)?\b",
                rf"{where}{colour} background\b",
                rf"\b(?:on|against) (?:an? )?{colour}(?=$| ?[,.;])",
            )
        ]
        self._style = re.compile(
            rf"\b(?:in )?({_any_of(vocabulary.styles)})(?: style)?\b", re.IGNORECASE
        )

    def read(self, prompt: str) -> str:
        """Return ``prompt`` unchanged if all its words are known, else the nearest prompt of known words."""
        words = words_of(prompt)
        if not prompt.strip() or (words and self._words.issuperset(words)):
            return prompt
        subject, background = " ".join(prompt.split()), ""
        for pattern in self._backgrounds if self.vocabulary.colours else ():
            if found := pattern.search(subject):
                colours = [group.lower() for group in found.groups()]
                background = (
                    f", on a gradient from {colours[0]} to {colours[1]}"
                    if len(colours) == 2
                    else f", on {_with_article(colours[0])} background"
                )
                subject = subject[: found.start()] + " " + subject[found.end() :]
                break
        style = ""
        if self.vocabulary.styles and (found := self._style.search(subject)):
            style = f", {found.group(1).lower()} style"
            subject = subject[: found.start()] + " " + subject[found.end() :]
        return f"{self._nearest(_MEDIUM.sub('', subject.strip()).strip(' ,.;') or prompt)}{style}{background}"

    def _nearest(self, subject: str) -> str:
        """The phrase for the nearest thing: one that ``subject`` names, if it names any."""
        named = {self._phrase_of_name[name.lower()] for name in self._names.findall(subject)}
        return self._nearest_name.of(subject, named)


def words_of(text: str) -> list[str]:
    """The words of ``text`` in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def _any_of(words: Sequence[str] | Mapping[str, str]) -> str:
    """A pattern that matches any of ``words``, preferring longer ones."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun.startswith(("a", "e", "i", "o", "u")) else f"a {noun}"
