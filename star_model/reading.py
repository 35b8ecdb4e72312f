"""How a prompt was read by a model that knows few things."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """A prompt as the model draws it.

    Args:
        prompt: what is encoded: the prompt itself if all of it is understood.
        things: phrases of the things that are drawn; empty if the prompt asks for none.
        style: that was asked for and is drawn; empty if the model chooses.
        background: colours or backdrop that was asked for and is drawn; empty if the model chooses.
        unknown: the thing that was asked for and that nothing in the vocabulary is like; empty if there is none.
        suggestions: up to three prompts that the model can draw, the nearest first.
        notes: sentences about what is drawn otherwise than it was asked for.
    """

    prompt: str
    things: tuple[str, ...] = ()
    style: str = ""
    background: str = ""
    unknown: str = ""
    suggestions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
