"""How a model that knows few things reads prompts about others: as the nearest thing that it knows.

A model that was trained on some hundred names finds nothing for any other, and paints a mixture. Where its directory
has a ``vocabulary.json``, a prompt with a word in it that training never used is read anew, in words that it did: the
thing that the prompt names, or else the one whose name is nearest to the prompt for the text encoder, with the style
and the background that the prompt asks for. Whoever asked is told how the prompt was read.

    {"names": {"a fox": [], "a car": ["an automobile"]},    phrase of a thing -> its other names
     "words": ["a", "background", ...],                     all words of the captions that the model was trained on
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
"""What a picture is, before what it shows: "a photo of" is no camera."""


Words = tuple[Annotated[str, Field(pattern=r"\S")], ...]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Vocabulary:
    """What a model was trained to draw.

    Args:
        names: a phrase for each thing -> its other names.
        words: all words, in lower case, of its captions.
        styles: words for them, as "flat" in "flat style".
        colours: words for those of backgrounds.
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
    """Which of several things a text is nearest to: by the cosine of its pooled features to any of the things' names.

    Args:
        names: thing -> its names, one at least altogether.
        pooled: texts -> the text encoder's pooled features (N, D).
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
        """The thing that ``text`` is nearest to, of those ``among`` which it must be, or of all."""
        similarities = self._features @ F.normalize(self._pooled([text])[0], dim=0)
        order: list[int] = similarities.argsort(descending=True).tolist()
        return next(self._things[i] for i in order if not among or self._things[i] in among)


class PromptReader:
    """Reads prompts as a model with a small vocabulary can draw them.

    Args:
        vocabulary: what it knows.
        pooled: texts -> the text encoder's pooled features (N, D).
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
        """``prompt`` as it is if all its words are known; else the nearest prompt of which that is so."""
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
        """The phrase of the nearest thing: of those that ``subject`` names, if it names any."""
        named = {self._phrase_of_name[name.lower()] for name in self._names.findall(subject)}
        return self._nearest_name.of(subject, named)


def words_of(text: str) -> list[str]:
    """The words of ``text`` in lower case, without what is between them."""
    return _WORD.findall(text.lower())


def _any_of(words: Sequence[str] | Mapping[str, str]) -> str:
    """A pattern for any of ``words``, the longest that fits."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun.startswith(("a", "e", "i", "o", "u")) else f"a {noun}"
