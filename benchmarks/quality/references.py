"""Reference images as a protocol wants them: square, of the model's size, in PNG."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image

ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}


class ReferencesError(ValueError):
    """A folder without images, or with one that cannot be read."""


def find_references(folder: Path) -> list[Path]:
    """All images in ``folder`` and the folders in it, in order.

    Raises:
        ReferencesError: there are none.
    """
    found = sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS)
    if not found:
        raise ReferencesError(f"{folder} has no images ({', '.join(sorted(ENDINGS))}) in it")
    return found


def prepare(
    files: list[Path],
    out: Path,
    size: int,
    crop: str,
    done: Callable[[int], None] = lambda images: None,
) -> None:
    """Scale the shorter side of each image to ``size``, crop it square, and write it to ``out``, unless it is there.

    Args:
        crop: ``random``, at a place that depends on the image's number alone, or ``centre``.
        done: called with 1 after each image.

    Raises:
        ReferencesError: naming the file that cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        target = out / f"{number:06d}.png"
        if not target.is_file():
            try:
                with Image.open(file) as opened:
                    image = square(opened.convert("RGB"), size, crop, number)
            except OSError as error:
                raise ReferencesError(
                    f"{file} is not an image that can be read: {error}"
                ) from error
            partial = target.with_suffix(".partial")
            image.save(partial, format="png")
            partial.rename(target)
        done(1)


def square(image: Image.Image, size: int, crop: str, number: int) -> Image.Image:
    """One image, ``size`` x ``size``."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    free = width - size, height - size
    if crop == "random":
        place = random.Random(number)
        left, top = (place.randint(0, space) for space in free)
    else:
        left, top = (space // 2 for space in free)
    return image.crop((left, top, left + size, top + size))
