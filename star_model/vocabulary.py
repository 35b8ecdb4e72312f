"""The vocabulary of a model that knows few things: the optional ``vocabulary.json`` of its directory.

    {"names": {"a fox": [], "a car": ["an automobile"]},     phrase for a thing -> its other names
     "words": ["a", "background", "small", ...],             all words of the training captions
     "styles": ["flat", "3d"],
     "colours": ["light blue", "blue", ...],                 of plain backgrounds
     "backdrops": {"forest": ["in a forest", "in the woods"]},   name -> phrases for it, the plainest first
     "kinds": {"vehicle": ["a car"]},                        what sort of thing -> things of that sort
     "max_things": 1,                                        drawn in one picture
     "least_likeness": 0.65}                                 see :mod:`star_model.prompt_reader`

Only ``names`` and ``words`` must be there. :class:`star_model.prompt_reader.PromptReader` reads prompts by it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from star_model.json_file import read_object

VOCABULARY = "vocabulary.json"

LEAST_LIKENESS = 0.65
"""Default of :attr:`Vocabulary.least_likeness`; ``python -m training.likeness`` shows how it was chosen."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_ARTICLES = ("a", "an", "the")

Words = tuple[Annotated[str, Field(pattern=r"\S")], ...]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Vocabulary:
    """What a model knows.

    Args:
        names: a phrase for each thing -> its other names; at least one thing.
        words: all words of the captions, in lower case.
        styles: names of styles, such as "flat" in "flat style".
        colours: names of background colours.
        backdrops: name of each place that it draws behind a thing -> phrases for it, the plainest first.
        kinds: what sort of thing, such as "bird" -> phrases of the things of that sort.
        max_things: things that it draws in one picture.
        least_likeness: cosine similarity of text features, 0 to 1, from which on a name stands for a thing.
    """

    names: Annotated[dict[str, Words], Field(min_length=1)]
    words: Words
    styles: Words = ()
    colours: Words = ()
    backdrops: dict[str, Annotated[Words, Field(min_length=1)]] = field(default_factory=dict)
    kinds: dict[str, Words] = field(default_factory=dict)
    max_things: Annotated[int, Field(ge=1, le=3)] = 1
    least_likeness: Annotated[float, Field(ge=0, le=1)] = LEAST_LIKENESS

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


def words_of(text: str) -> list[str]:
    """The words of ``text`` in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def without_article(phrase: str) -> str:
    """A noun phrase without its leading article: "a red apple" -> "red apple"."""
    first, _, rest = phrase.partition(" ")
    return rest if first.lower() in _ARTICLES and rest else phrase


def with_article(noun: str) -> str:
    """``noun`` with "a" or "an", by its first letter."""
    return f"an {noun}" if noun.startswith(("a", "e", "i", "o", "u")) else f"a {noun}"
