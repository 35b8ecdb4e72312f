"""Prompts of edits, for a model that knows few things: what they have to name, and what is made of them.

Such a model paints a thing on a background. The part of an image that is edited is a thing, which the prompt has to
name, or the background of one, and then its words alone paint it beside the thing that is there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from server.api.schemas import GenerateRequest
from server.errors import UnknownThing
from server.images.uploads import EditFiles
from server.messages import ImageEdit, ModelInfo
from star_model.people import NO_THING
from star_model.reading import Reading, cannot_draw
from star_model.vocabulary import Vocabulary, with_article, words_of

_INSTRUCTION = re.compile(
    r"(?:please )?(?:(?:change|replace|set|make|turn) (?:the |its )?background (?:to be|to|with|into|by)?"
    r"|(?:put|place|set) (?:it|them|this|that)\b)",
    re.IGNORECASE,
)
_FILLERS = frozenset(
    (
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "under",
        "with",
        "by",
        "and",
        "front",
        "inside",
        "over",
        "background",
        "backdrop",
        "scene",
    )
)


def paints_part(body: GenerateRequest, files: EditFiles | None) -> bool:
    """Whether a part of an image is painted; an image without a mask may still have transparent pixels."""
    return files is not None and (files.mask is not None or body.place is not None)


@dataclass(frozen=True)
class Wording:
    """What is encoded for an edit.

    Args:
        prompt: the text.
        literal: it is encoded as it stands.
        notes: warnings about it.
    """

    prompt: str
    literal: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EditPrompt:
    """A prompt of an edit, as the model reads it.

    Args:
        text: the prompt.
        reading: how it is read.
        model: that paints.
        draws_nearest: whether a thing that the model does not know is drawn as the nearest.
    """

    text: str
    reading: Reading
    model: ModelInfo
    draws_nearest: bool = False

    @property
    def background(self) -> str:
        """The background, if the prompt names nothing else; otherwise ""."""
        vocabulary, reading = self.model.vocabulary, self.reading
        if vocabulary is None or not reading.notes:
            return ""
        if reading.background and reading.refused == NO_THING:
            return reading.background
        if reading.background and not _INSTRUCTION.match(self.text):
            return ""
        return background_of(self.text, vocabulary)

    def require_known(self) -> None:
        """Check that the prompt of a part of an image names a thing or a background.

        Raises:
            UnknownThing: it names none that the model knows, or people.
        """
        vocabulary, reading = self.model.vocabulary, self.reading
        if vocabulary is None or not reading.unknown or self.background:
            return
        if self.draws_nearest and not reading.refused:
            return
        if reading.refused not in ("", NO_THING):
            message = cannot_draw(self.model.name, reading)
        else:
            colour = next(iter(vocabulary.colours), "")
            example = f"{next(iter(vocabulary.names))} {_on(colour)}".strip()
            message = (
                f"{self.model.name} cannot draw {_quoted(reading.unknown)}. Describe the edited part as it is to look, "
                f'not what is to be done: name a thing and its background, such as "{example}", or a background alone.'
            )
        raise UnknownThing(message, param="prompt", suggestions=reading.suggestions)

    def worded(self, edit: ImageEdit) -> Wording:
        """Return what is encoded for a decoded edit."""
        vocabulary, reading = self.model.vocabulary, self.reading
        if vocabulary is None or edit.mask is None:
            return Wording(self.text)
        if background := self.background:
            note = f"{_quoted(self.text)} is drawn as {_quoted(background)}."
            known = reading.background == background
            return Wording(background, literal=True, notes=() if known else (note,))
        if reading.background or not reading.things or edit.around not in vocabulary.colours:
            return Wording(self.text)
        added = _on(edit.around)
        return Wording(
            f"{self.text.rstrip(' .,;')}, {added}",
            notes=(
                f'The prompt names no background: "{added}" was added, the colour around the painted part.',
            ),
        )


def background_of(text: str, vocabulary: Vocabulary) -> str:
    """Return the phrase of the backdrop or colour that is all that a text names, as people name them; else "".

    >>> background_of("change the background to a starry night sky", vocabulary)
    'under a starry night sky'
    """
    instruction = _INSTRUCTION.match(text)
    words = words_of(text[instruction.end() :] if instruction else text)
    asked = {_stem(word) for word in words if word not in _FILLERS}
    colours = {" ".join(words_of(colour)): colour for colour in vocabulary.colours}
    if instruction and (colour := colours.get(" ".join(w for w in words if w not in _FILLERS))):
        return _on(colour)
    asked -= {word for colour in vocabulary.colours for word in words_of(colour)}
    for name, phrases in vocabulary.backdrops.items():
        said = {_stem(word) for word in words_of(" ".join((name, *phrases)))}
        core = {_stem(word) for word in words_of(name)} - _FILLERS
        if asked and asked <= said and asked & core:
            return phrases[0]
    return ""


def _stem(word: str) -> str:
    return word.removesuffix("s")


def _on(colour: str) -> str:
    return f"on {with_article(colour)} background" if colour else ""


def _quoted(text: str) -> str:
    return f'"{text if len(text) <= 60 else text[:57] + "..."}"'
