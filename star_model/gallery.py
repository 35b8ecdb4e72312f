"""Pictures that a model painted ahead, to show what it does: an optional folder ``gallery`` in its directory.

    gallery/gallery.json   {"transformer": SHA-256 of transformer.safetensors, "pictures": [
                               {"prompt": "a fox", "seed": 1, "file": "a-fox.webp"}, ...]}
    gallery/a-fox.webp     small: a few kilobytes

``python -m training.gallery`` paints them. Pictures of other weights than those beside them are not shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from star_model.errors import CheckpointError
from star_model.json_file import read_object
from star_model.native_files import SUMS, TRANSFORMER

GALLERY = "gallery"
INDEX = "gallery.json"

_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class GalleryPicture:
    """A picture and how it was painted.

    Args:
        prompt: as a request has it.
        seed: of the request.
        image: the WebP file.
    """

    prompt: str
    seed: int
    image: bytes


class Entry(BaseModel):
    """One picture in ``gallery.json``."""

    model_config = _STRICT

    prompt: Annotated[str, Field(pattern=r"\S")]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    file: Annotated[str, Field(pattern=r"^[\w.-]+\.webp$")]


class Index(BaseModel):
    """``gallery.json``."""

    model_config = _STRICT

    transformer: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    pictures: Annotated[tuple[Entry, ...], Field(max_length=48)]


def read_gallery(directory: Path) -> tuple[GalleryPicture, ...]:
    """Read the gallery of a model directory; empty if there is none, or if it was painted by other weights.

    Raises:
        CheckpointError: ``gallery.json`` is not as the top of this module shows, or a file is missing.
    """
    file = directory / GALLERY / INDEX
    if not file.is_file():
        return ()
    index = read_object(file, Index)
    if index.transformer != digest_of_transformer(directory):
        return ()
    return tuple(
        GalleryPicture(entry.prompt, entry.seed, _read(file.parent / entry.file))
        for entry in index.pictures
    )


def digest_of_transformer(directory: Path) -> str | None:
    """The SHA-256 of a model's transformer as its ``SHA256SUMS`` states it; None if it does not."""
    sums = directory / SUMS
    if not sums.is_file():
        return None
    found = re.search(
        rf"^([0-9a-f]{{64}})  {re.escape(TRANSFORMER)}$", sums.read_text("utf-8"), re.M
    )
    return found.group(1) if found else None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read ({error.strerror}); paint the gallery again, or delete its folder"
        ) from error
