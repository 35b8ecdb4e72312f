"""Prompts of edits, for a model that knows few things: what they have to name, and what is made of them.

Such a model paints a thing on a background. The part of an image that is edited is a thing, which the prompt has to
name, or the background of one, and then its words alone paint it beside the thing that is there.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.api.schemas import GenerateRequest
from server.errors import UnknownThing
from server.images.uploads import EditFiles
from server.messages import ImageEdit, ModelInfo
from server.validation import shorten
from star_model.people import NO_THING
from star_model.reading import Reading, cannot_draw
from star_model.vocabulary import with_article


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
        return self.reading.background if self.reading.refused == NO_THING else ""

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
            said = background in self.text
            return Wording(background, literal=True, notes=() if said else (note,))
        if reading.background or not reading.things or edit.around not in vocabulary.colours:
            return Wording(self.text)
        added = _on(edit.around)
        return Wording(
            f"{self.text.rstrip(' .,;')}, {added}",
            notes=(
                f'The prompt names no background: "{added}" was added, the colour around the painted part.',
            ),
        )


def _on(colour: str) -> str:
    return f"on {with_article(colour)} background" if colour else ""


def _quoted(text: str) -> str:
    return f'"{shorten(text)}"'
