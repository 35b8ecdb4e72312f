"""A model in words, for the people who use it: an optional ``about.json`` in its directory.

    {"description": "Draws animals and plants, flat or in 3d.", "examples": ["a fox, flat style"],
     "license": "Apache-2.0"}

It is written by hand, like the model card: :func:`star_model.save_model` keeps the one that is there.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from star_model.json_file import read_object

ABOUT = "about.json"


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class About:
    """A model in words.

    Args:
        description: a few sentences: what the model draws, and what it cannot.
        examples: prompts that it draws well.
        license: of the weights, as an SPDX identifier; None if their publisher states none, or it is not known.
    """

    description: str = ""
    examples: tuple[Annotated[str, Field(pattern=r"\S")], ...] = ()
    license: Annotated[str, Field(pattern=r"\S")] | None = None


def write_about(directory: Path, about: About) -> None:
    """Write ``about.json`` of a model directory, without the keys that say nothing."""
    said = {key: value for key, value in asdict(about).items() if value}
    text = json.dumps(said, ensure_ascii=False, indent=2)
    (directory / ABOUT).write_text(text + "\n", encoding="utf-8")


def read_about(directory: Path) -> About:
    """Read ``about.json`` of a model directory; an empty :class:`About` if there is none.

    Raises:
        CheckpointError: the file is not as the top of this module shows; the text says what is wrong.
    """
    file = directory / ABOUT
    return read_object(file, About) if file.is_file() else About()
