"""How a prompt was read by a model that knows few things."""

from __future__ import annotations

from dataclasses import dataclass

ENGLISH_ONLY = "Prompts are read in English."
"""Note of a prompt in another language."""


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
        refused: why nothing may be drawn for the unknown thing, not even the nearest; a sentence, or empty.
    """

    prompt: str
    things: tuple[str, ...] = ()
    style: str = ""
    background: str = ""
    unknown: str = ""
    suggestions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refused: str = ""


def cannot_draw(model: str, reading: Reading, otherwise: str = "") -> str:
    """Say that a model cannot draw what is unknown in a prompt, and what it can.

    Args:
        model: its name.
        reading: with an unknown thing.
        otherwise: how to get the nearest thing, where that may be drawn: the end of a sentence.
    """
    *most, last = [f'"{prompt}"' for prompt in reading.suggestions]
    sentences = [f'{model} cannot draw "{reading.unknown}".']
    if reading.refused:
        sentences.append(reading.refused)
    if ENGLISH_ONLY in reading.notes:
        sentences.append(ENGLISH_ONLY)
    offered = f"{', '.join(most)} or {last}" if most else last
    nearest = f", or {otherwise}" if otherwise and not reading.refused else ""
    return " ".join([*sentences, f"Try {offered}{nearest}."])
