"""What a model knows, in words for the people who use it: an optional ``about.json`` in its directory.

    {"description": "Draws animals and plants, flat or in 3d.", "examples": ["a fox, flat style"]}

It is prose like the model card, written by hand: :func:`star_model.save_model` keeps the one that is there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from star_model.errors import CheckpointError

ABOUT = "about.json"


@dataclass(frozen=True)
class About:
    """A model in words.

    Args:
        description: a few sentences: what it draws, and what it cannot.
        examples: prompts that it draws well.
    """

    description: str = ""
    examples: tuple[str, ...] = ()


def read_about(directory: Path) -> About:
    """What stands in a model directory's ``about.json``; an empty :class:`About` where there is none.

    Raises:
        CheckpointError: the file is not what the top of this module shows; the text says what is wrong.
    """
    file = directory / ABOUT
    if not file.is_file():
        return About()
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f'{file} must be an object with "description" and "examples"')
    if unknown := sorted(data.keys() - {"description", "examples"}):
        raise CheckpointError(f"{file}: unknown key {unknown[0]}; known are description, examples")
    description, examples = data.get("description", ""), data.get("examples", [])
    if not isinstance(description, str):
        raise CheckpointError(f"{file}: description must be a string")
    if not isinstance(examples, list) or not all(
        isinstance(e, str) and e.strip() for e in examples
    ):
        raise CheckpointError(f"{file}: examples must be a list of prompts")
    return About(description, tuple(examples))
