"""A scene: which drawings are where, on which background, and what it is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from star_model.colours import COLOURS, RGB
from training.concepts import Concept

Arrangement = Literal[
    "left of", "above", "row", "top left", "top right", "bottom left", "bottom right"
]

GRID = 16
"""Sides and corners of drawings are whole cells of a grid of 16 x 16, one cell for each of the tokenizer's 32 px.

A drawing then falls on the finest token map in one way for each of its sizes, wherever it is, instead of in another for
each pixel that it moves: far less for a transformer to learn, and still hundreds of pictures for each drawing.
"""

SMALL, BIG = 6, 14
"""Sides in cells of `GRID`, from which on a caption may call an object small or big."""


@dataclass(frozen=True)
class Background:
    """What is behind the objects.

    Attributes:
        kind: "plain" (one colour), "gradient" (vertical, first colour at the top) or "backdrop" (a picture of a place).
        colours: names out of `COLOURS`, one or two; of a backdrop, its name in `training.backdrops.BACKDROPS`.
        rgb: the colours as painted; none of a backdrop.
    """

    kind: Literal["plain", "gradient", "backdrop"]
    colours: tuple[str, ...]
    rgb: tuple[RGB, ...]


@dataclass(frozen=True)
class PlacedObject:
    """A drawing on the canvas: centre (x to the right, y down) and side of its square, as fractions of it."""

    concept: Concept
    style: str
    x: float
    y: float
    size: float
    mirrored: bool

    @property
    def size_word(self) -> Literal["small", "big"] | None:
        """What a caption may call its size when it is alone; None for the usual sizes."""
        if self.size <= SMALL / GRID:
            return "small"
        return "big" if self.size >= BIG / GRID else None


@dataclass(frozen=True)
class Scene:
    """A picture to be.

    Attributes:
        objects: one to three, all of one style; the order is that of `arrangement`.
        background: what is behind them.
        arrangement: None for an object by itself in the middle; a corner for one that is in it; "left of" and
            "above" for two; "row" for three, from left to right.
        caption: one way to say it. It may leave things out, and says nothing untrue.
    """

    objects: tuple[PlacedObject, ...]
    background: Background
    arrangement: Arrangement | None
    caption: str

    @property
    def style(self) -> str:
        """The style that all objects share."""
        return self.objects[0].style


def nearest_colour(rgb: Sequence[float]) -> str:
    """The name in `COLOURS` whose colour is nearest to `rgb` (0 to 255), by Euclidean distance."""
    return min(
        COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(rgb, COLOURS[name], strict=True))
    )
