"""The colour around the part of an image that is to be painted."""

from __future__ import annotations

from collections import Counter

from PIL import Image, ImageFilter

from star_model.colours import COLOURS

_CELLS = 64
"""Cells along each side, by which the surroundings are judged."""
_RIM = 2
"""Width of the surroundings, in cells."""
_ALIKE = 48
"""Levels of a channel that a colour may differ from one with a name."""
_MOST = 0.45
"""Share of the surroundings that has to have one colour."""


def colour_around(image: Image.Image, mask: Image.Image, *, placed: bool) -> str:
    """Return the name of the colour that most of the surroundings of a mask have; "" if there is none.

    A mask that covers the whole border of the image is that of a background: what it surrounds is the thing, whose
    colour is not meant. An image that is placed on a larger canvas ends in its background.

    Args:
        image: in RGB.
        mask: in L, of the same size; not 0 is painted.
        placed: the image was placed on the canvas, and what is around it is painted.
    """
    touched = mask.resize((_CELLS, _CELLS), Image.Resampling.BOX).point(lambda v: 255 if v else 0)
    if not placed and _covers_border(touched):
        return ""
    near = touched.filter(ImageFilter.MaxFilter(2 * _RIM + 1)).tobytes()
    cells = image.resize((_CELLS, _CELLS), Image.Resampling.BOX).tobytes()
    inside = touched.tobytes()
    rim = [i for i in range(_CELLS * _CELLS) if near[i] and not inside[i]]
    names = Counter(_name(cells[3 * i : 3 * i + 3]) for i in rim)
    del names[""]
    name, count = max(names.items(), key=lambda item: item[1], default=("", 0))
    return name if count >= _MOST * len(rim) else ""


def _covers_border(touched: Image.Image) -> bool:
    last = _CELLS - 1
    sides = ((0, 0, _CELLS, 1), (0, last, _CELLS, _CELLS), (0, 0, 1, _CELLS), (last, 0, _CELLS, _CELLS))  # fmt: skip
    return all(touched.crop(side).getextrema()[0] for side in sides)


def _name(pixel: bytes) -> str:
    """Return the name of the colour that a pixel has, or ""."""
    off, name = min(
        (max(abs(a - b) for a, b in zip(pixel, colour, strict=True)), name)
        for name, colour in COLOURS.items()
    )
    return name if off <= _ALIKE else ""
