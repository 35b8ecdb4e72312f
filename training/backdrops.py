"""Backdrops: a few fixed, flat pictures of places for drawings to stand in, of our own drawing.

Each is a list of shapes, later ones over earlier ones, in cells: the side of the picture is 16 cells, as in
``training.scene.GRID``, with (0, 0) at the top left. Straight edges lie on whole cells, and things that occur
several times (stars, flowers, windows) lie in their cells in the same way, so that there are few different cells
for the tokenizer and the transformer to learn. The middle is left calm, for that is where the drawing stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CELLS = 16  # along the side of a backdrop
_OVERSAMPLING = 4  # drawn this much larger along each side, then averaged: smooth edges


@dataclass(frozen=True)
class Shape:
    """One filled shape.

    Attributes:
        kind: "box" and "oval" fill the rectangle (left, top, right, bottom); "polygon" joins (x, y) pairs.
        colour: "#rrggbb".
        at: The coordinates in cells, 0 to 16; shapes may reach over the edge of the picture.
    """

    kind: Literal["box", "oval", "polygon"]
    colour: str
    at: tuple[float, ...]


def _box(colour: str, left: float, top: float, right: float, bottom: float) -> Shape:
    return Shape("box", colour, (left, top, right, bottom))


def _oval(colour: str, left: float, top: float, right: float, bottom: float) -> Shape:
    return Shape("oval", colour, (left, top, right, bottom))


def _disc(colour: str, x: float, y: float, radius: float) -> Shape:
    return _oval(colour, x - radius, y - radius, x + radius, y + radius)


def _polygon(colour: str, *at: float) -> Shape:
    return Shape("polygon", colour, at)


def _land(sky: str, ground: str, horizon: float) -> list[Shape]:
    """Sky over ground that meet at ``horizon`` cells from the top."""
    return [_box(sky, 0, 0, CELLS, horizon), _box(ground, 0, horizon, CELLS, CELLS)]


def _cloud(colour: str, x: float, y: float) -> list[Shape]:
    """A cloud of 4 x 2 cells with its flat bottom at ``y`` and its left end at ``x``."""
    return [
        _box(colour, x + 0.5, y - 1, x + 3.5, y),
        _disc(colour, x + 0.5, y - 0.5, 0.5),
        _disc(colour, x + 3.5, y - 0.5, 0.5),
        _disc(colour, x + 1.5, y - 1, 0.75),
        _disc(colour, x + 2.5, y - 1, 1),
    ]


def _fir(colour: str, tip: str, x: float, foot: float) -> list[Shape]:
    """A fir tree of 2 x 4 cells, its left end at ``x``, standing on ``foot``; ``tip`` colours its top."""
    top = foot - 4
    return [
        _box("#7a5236", x + 0.75, foot - 1, x + 1.25, foot),
        _polygon(colour, x + 1, top + 1, x + 2, foot - 0.75, x, foot - 0.75),
        _polygon(colour, x + 1, top, x + 1.75, top + 2, x + 0.25, top + 2),
        _polygon(tip, x + 1, top, x + 1.375, top + 1, x + 0.625, top + 1),
    ]


def _cactus(x: float, foot: float) -> list[Shape]:
    """A cactus of 3 x 4 cells with two arms, its left end at ``x``, standing on ``foot``."""
    green = "#3f8f5a"
    return [
        _box(green, x + 1, foot - 3.5, x + 2, foot),
        _disc(green, x + 1.5, foot - 3.5, 0.5),
        _box(green, x, foot - 2.5, x + 0.5, foot - 1),
        _disc(green, x + 0.25, foot - 2.5, 0.25),
        _box(green, x, foot - 1.5, x + 1, foot - 1),
        _box(green, x + 2.5, foot - 3, x + 3, foot - 1.5),
        _disc(green, x + 2.75, foot - 3, 0.25),
        _box(green, x + 2, foot - 2, x + 3, foot - 1.5),
    ]


def _palm(x: float, foot: float) -> list[Shape]:
    """A palm tree of 4 x 7 cells, its left end at ``x``, standing on ``foot``."""
    top, middle, leaf = foot - 5.5, x + 2, "#3c9a55"
    return [
        _polygon("#9a6b42", middle - 0.25, top, middle + 0.25, top, x + 1.75, foot, x + 1, foot),
        _polygon(leaf, middle, top - 0.25, x + 1, top - 1, x, top + 0.75, x + 1, top),
        _polygon(leaf, middle, top - 0.25, x + 3, top - 1, x + 4, top + 0.75, x + 3, top),
        _polygon(leaf, middle, top, x + 1.5, top + 0.25, x + 1, top + 2, x + 0.75, top + 0.25),
        _polygon(leaf, middle, top, x + 2.5, top + 0.25, x + 3, top + 2, x + 3.25, top + 0.25),
        _polygon(leaf, middle - 0.5, top, x + 1.25, top - 1.5, middle, top - 1, x + 2.75, top - 1.5,
                 middle + 0.5, top),
    ]  # fmt: skip


def _flower(petals: str, column: int, row: int) -> list[Shape]:
    """A flower of four petals in the middle of a cell."""
    x, y = column + 0.5, row + 0.5
    around = [(x - 0.2, y - 0.2), (x + 0.2, y - 0.2), (x - 0.2, y + 0.2), (x + 0.2, y + 0.2)]
    return [*(_disc(petals, *at, 0.22) for at in around), _disc("#f6c544", x, y, 0.17)]


def _star(colour: str, column: int, row: int) -> Shape:
    """A star with four points in the middle of a cell."""
    x, y, near, far = column + 0.5, row + 0.5, 0.1, 0.35
    return _polygon(
        colour, x, y - far, x + near, y - near, x + far, y, x + near, y + near,
        x, y + far, x - near, y + near, x - far, y, x - near, y - near,
    )  # fmt: skip


def _peak(rock: str, snow: str, x: float, foot: float, half: int) -> list[Shape]:
    """A mountain around ``x``, ``half`` cells high and twice as wide, its top snowy."""
    top = foot - half
    return [
        _polygon(rock, x, top, x + half, foot, x - half, foot),
        _polygon(snow, x, top, x + 2, top + 2, x + 1, top + 1.5, x, top + 2,
                 x - 1, top + 1.5, x - 2, top + 2),
    ]  # fmt: skip


def _grass() -> list[Shape]:
    return [
        *_land("#8fd0f5", "#6cbf5a", 10),
        _disc("#ffd84d", 13, 3, 1.5),
        *_cloud("#ffffff", 1, 4),
        _box("#5aad4b", 0, 13, CELLS, CELLS),
    ]


def _snow() -> list[Shape]:
    flakes = [(4, 1), (8, 0), (12, 1), (1, 3), (6, 3), (10, 3), (14, 3), (4, 5), (12, 5)]
    return [
        *_land("#a9c9e4", "#f7fafd", 10),
        *(_disc("#ffffff", column + 0.5, row + 0.5, 0.25) for column, row in flakes),
        *_fir("#3d7a6a", "#ffffff", 0, 10),
        *_fir("#3d7a6a", "#ffffff", 2, 10),
        *_fir("#3d7a6a", "#ffffff", 14, 10),
        *(_oval("#e3edf6", x, 14, x + 8, 18) for x in (0, 8)),
    ]


def _beach() -> list[Shape]:
    return [
        *_land("#a5e0f7", "#f5dca0", 11),
        _box("#38b0c8", 0, 8, CELLS, 11),
        _box("#e8fbfb", 0, 10.75, CELLS, 11),
        _disc("#ffdf5e", 13, 3, 1.5),
        *_palm(0, 12),
    ]


def _starry_night() -> list[Shape]:
    stars = [(1, 1), (5, 2), (8, 0), (10, 2), (3, 4), (0, 6),
             (2, 9), (15, 6), (13, 9), (7, 4), (15, 0)]  # fmt: skip
    sky = "#1d2a5e"
    return [
        *_land(sky, "#22473f", 13),
        *(_star("#fdf3b8", column, row) for column, row in stars),
        _disc("#fdf3b8", 13, 3, 1.5),
        _disc(sky, 12.25, 2.5, 1.375),
    ]


def _room() -> list[Shape]:
    frame = "#ffffff"
    return [
        *_land("#f3dcbc", "#b98554", 12),
        _box("#dfbf95", 0, 11.5, CELLS, 12),
        _box(frame, 1, 1, 5, 7),
        *(_box("#a5dbf5", x, y, x + 1.5, y + 2.5) for x in (1.25, 3.25) for y in (1.25, 4.25)),
        _box("#d2b084", 1, 7, 5, 7.5),
        _box("#8a5a3a", 11, 2, 15, 5),
        _box("#f9f3e3", 11.5, 2.5, 14.5, 4.5),
        _polygon("#6fae7c", 11.5, 4.5, 13, 3, 14.5, 4.5),
        _box("#d2695c", 2, 13, 14, 15),
        _box("#e58a78", 3, 13, 13, 15),
    ]


def _desert() -> list[Shape]:
    return [
        *_land("#fbe3b3", "#e9b566", 11),
        _disc("#f9a13f", 12, 3, 1.5),
        _polygon("#dba255", 0, 9, 4, 11, 0, 11),
        _polygon("#dba255", 16, 8, 16, 11, 10, 11),
        *_cactus(0, 13),
        *_cactus(13, 12),
        *(_oval("#f1c57c", x, 14, x + 8, 18) for x in (-4, 4, 12)),
    ]


def _sea() -> list[Shape]:
    crests = [_oval("#3a97d6", x, 12, x + 2, 14) for x in range(0, CELLS, 2)]
    swell = [_oval("#2577bd", x - 1, 14, x + 1, 16) for x in range(0, CELLS + 2, 2)]
    return [
        *_land("#bfe6f8", "#5ab0e2", 10),
        *_cloud("#ffffff", 1, 4),
        *_cloud("#ffffff", 11, 6),
        *crests,
        _box("#3a97d6", 0, 13, CELLS, CELLS),
        *swell,
        _box("#2577bd", 0, 15, CELLS, CELLS),
    ]


def _mountains() -> list[Shape]:
    return [
        *_land("#b5def5", "#7dbb6a", 12),
        *_peak("#93a8c4", "#f1f6fb", 8, 12, 6),
        *_peak("#7089ab", "#ffffff", 2, 12, 9),
        *_peak("#7089ab", "#ffffff", 14, 12, 7),
        _box("#6aab5a", 0, 14, CELLS, CELLS),
    ]


def _forest() -> list[Shape]:
    far = "#9ccd93"
    leaves = "#3f8a52"
    return [
        *_land("#d8efd2", "#6aa957", 11),
        *(shape for x in range(0, CELLS, 2) for shape in _fir(far, far, x, 11)),
        _box("#83bb79", 0, 10, CELLS, 11),
        _box("#5f9e4e", 0, 13, CELLS, CELLS),
        _box("#7a5236", 1, 0, 2, 13),
        _box("#7a5236", 14, 0, 15, 13),
        _box(leaves, 0, 0, CELLS, 1),
        *(_disc(leaves, x, 1, 1) for x in range(1, CELLS, 2)),
        *(_disc(leaves, x, 1, 2) for x in (1, 3, 13, 15)),
        *(_box(leaves, x, 12, x + 2, 13) for x in (0, 14)),
        *(_disc(leaves, x, 12, 1) for x in (0, 2, 14, 16)),
    ]


def _sunset() -> list[Shape]:
    return [
        _box("#7a4b94", 0, 0, CELLS, 3),
        _box("#c25b8f", 0, 3, CELLS, 6),
        _box("#f0806c", 0, 6, CELLS, 9),
        _box("#fbb35c", 0, 9, CELLS, 12),
        _disc("#fff0a3", 8, 12, 5),
        _box("#4a3268", 0, 12, CELLS, CELLS),
        _box("#fbb35c", 5, 13, 11, 13.5),
        _box("#fbb35c", 6, 14, 10, 14.5),
    ]


def _city() -> list[Shape]:
    buildings = [(0, 4, 3, "#3d3f73"), (3, 7, 3, "#4c4f8a"), (6, 10, 2, "#3d3f73"), (8, 9, 2, "#4c4f8a"),
                 (10, 7, 3, "#3d3f73"), (13, 3, 3, "#4c4f8a")]  # fmt: skip
    shapes = [*_land("#23244f", "#55586b", 13), _disc("#f8efc0", 5, 4, 1.5)]
    for left, top, width, colour in buildings:
        shapes.append(_box(colour, left, top, left + width, 13))
        # Windows every second row: as many as say "city" without a pattern all over the middle.
        columns = (left, left + width - 1)
        shapes += [
            _box("#ffd766", x + 0.25, y + 0.25, x + 0.75, y + 0.75)
            for x in columns
            for y in range(top + 1, 12, 2)
        ]
    return shapes + [_box("#f2f2f2", x, 14.25, x + 2, 14.75) for x in (1, 5, 9, 13)]


def _meadow() -> list[Shape]:
    colours = ("#e8505b", "#ffffff", "#b56bd0")
    places = [
        (column, row)
        for row in range(9, CELLS, 2)
        for column in range((row // 2) % 2 * 2, CELLS, 4)
    ] + [(column, 15) for column in (0, 4, 8, 12)]
    flowers = [
        s for column, row in places for s in _flower(colours[(column // 2 + row) % 3], column, row)
    ]
    return [*_land("#c4ebfa", "#8fd06a", 8), *flowers]


def _cloudy() -> list[Shape]:
    dark, light = "#94a1b0", "#e6ebf0"
    return [
        *_land("#b9c4cf", "#7d9f78", 12),
        _box(dark, 0, 0, CELLS, 1),
        *(_disc(dark, x, 1, 1) for x in range(1, CELLS, 2)),
        *_cloud(light, 0, 5),
        *_cloud(light, 6, 4),
        *_cloud(light, 12, 6),
        *_cloud(dark, 13, 9),
        *_cloud(dark, -1, 9),
    ]


def _underwater() -> list[Shape]:
    bubbles = [(3, 2), (2, 5), (13, 1), (12, 4), (14, 6), (8, 0)]
    weeds = [(0, 8), (2, 10), (13, 10), (15, 7)]
    # Leaves of the weeds overlap by a cell, so that every cell of a stem but the last looks the same.
    shapes = [_box("#3fa9d4", 0, 0, CELLS, 5), _box("#2b8fc2", 0, 5, CELLS, 10)]
    shapes += [_box("#2078ab", 0, 10, CELLS, CELLS), _box("#ecd59a", 0, 14, CELLS, CELLS)]
    shapes += [_disc("#c9eefa", column + 0.5, row + 0.5, 0.35) for column, row in bubbles]
    for x, top in weeds:
        shapes += [_oval("#2fae83", x, y, x + 1, y + 2) for y in range(top, 14)]
    return shapes


#: What each backdrop is called, what captions say for it, the plainest first ("a fox" + phrase), and its shapes.
_TABLE: dict[str, tuple[tuple[str, ...], Callable[[], list[Shape]]]] = {
    "grass": (
        ("on grass under a blue sky", "on green grass", "on the grass on a sunny day"),
        _grass,
    ),
    "snow": (("in the snow", "in a snowy landscape", "on a snowy winter day"), _snow),
    "beach": (("on a beach", "on a sandy beach", "on a beach with a palm tree"), _beach),
    "starry night": (
        ("under a starry night sky", "at night under the stars", "under the moon and stars"),
        _starry_night,
    ),
    "room": (("in a room", "indoors", "inside a house"), _room),
    "desert": (("in a desert", "in the desert", "in a sandy desert with cacti"), _desert),
    "sea": (("on the sea", "at sea", "on the waves of the sea"), _sea),
    "mountains": (
        ("in front of mountains", "in the mountains", "in front of snowy mountains"),
        _mountains,
    ),
    "forest": (("in a forest", "in the woods", "among the trees of a forest"), _forest),
    "sunset": (("at sunset", "in front of a sunset", "in front of the setting sun"), _sunset),
    "city at night": (
        ("in a city at night", "on a city street at night", "in front of a city at night"),
        _city,
    ),
    "meadow": (("in a meadow of flowers", "in a flower meadow", "in a field of flowers"), _meadow),
    "cloudy sky": (("under a cloudy sky", "on a cloudy day", "under gray clouds"), _cloudy),
    "under water": (("under water", "underwater", "at the bottom of the sea"), _underwater),
}

#: Names of the backdrops, each with the phrases that captions use for it, the plainest first.
BACKDROPS: dict[str, tuple[str, ...]] = {name: phrases for name, (phrases, _) in _TABLE.items()}


@lru_cache(maxsize=64)
def paint_backdrop(name: str, size: int) -> NDArray[np.uint8]:
    """A backdrop as RGB, uint8 (size, size, 3), 0 to 255; always the same picture, shared and read-only.

    Raises:
        ValueError: No backdrop has this name, or ``size`` is below 1.
    """
    if name not in _TABLE:
        raise ValueError(f"unknown backdrop {name!r}; known are: {', '.join(_TABLE)}")
    if size < 1:
        raise ValueError(f"the size of a backdrop is at least 1 pixel, not {size}")
    side = size * _OVERSAMPLING
    image = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(image)
    for shape in _TABLE[name][1]():
        _fill(draw, shape, side / CELLS)
    # The mean of whole blocks leaves edges on cell borders sharp; a wider filter would let them ring.
    pixels = np.asarray(image.reduce(_OVERSAMPLING), dtype=np.uint8).copy()
    pixels.setflags(write=False)
    return pixels


def _fill(draw: ImageDraw.ImageDraw, shape: Shape, cell: float) -> None:
    """Draw one shape, for cells of ``cell`` pixels."""
    at = [round(value * cell) for value in shape.at]
    if shape.kind == "polygon":
        draw.polygon(at, fill=shape.colour)
        return
    left, top, right, bottom = at
    # Pillow's right and bottom are inside; at tiny sizes, where nothing is left between, one pixel is.
    inside = (left, top, max(left, right - 1), max(top, bottom - 1))
    if shape.kind == "box":
        draw.rectangle(inside, fill=shape.colour)
    else:
        draw.ellipse(inside, fill=shape.colour)
