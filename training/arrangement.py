"""Places and sizes of the objects of a scene.

Those that teach: one drawing of 12 cells in the middle, two of 8 cells in the halves. A drawing then has one pattern of
tokens, or a few, instead of hundreds. The image tokenizer alone also sees other places and sizes, so that it can encode
any image.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from training.concepts import Concept
from training.scene import BIG, GRID, SMALL, Arrangement, PlacedObject

Place = tuple[int, int, int]
"""Left, top and side of a drawing's square, in cells of `GRID`."""

_CORNERS: tuple[Arrangement, ...] = ("top left", "top right", "bottom left", "bottom right")
_SIDE_BY_SIDE = 0.6  # of the pairs; the others are one above the other
_MIRRORED_SHARE = 0.25  # of the drawings in other places that may be mirrored
_SMALL_SHARE, _BIG_SHARE, _CORNER_SHARE = 0.1, 0.1, 0.4  # corners: of the small ones
_USUAL = (10, 12, 12)  # sides of a drawing by itself in other places
_DRIFT = {6: 0, 10: 2, 12: 1, 14: 0}
"""By side: cells that an object in other places may be off the middle, in one direction."""


def arrange(
    rng: Random, concepts: Sequence[Concept], style: str, *, elsewhere: bool = False
) -> tuple[tuple[PlacedObject, ...], Arrangement | None]:
    """Place one to three drawings, each wholly on the canvas, its corners on `GRID`.

    Args:
        rng: decides.
        concepts: what is drawn.
        style: of all drawings.
        elsewhere: in other places and sizes than the usual ones, mirrored or not.
    """
    places, arrangement = _places(rng, len(concepts), elsewhere)
    objects = tuple(
        PlacedObject(
            concept=concept,
            style=style,
            x=(left + side / 2) / GRID,
            y=(top + side / 2) / GRID,
            size=side / GRID,
            mirrored=elsewhere and concept.mirrorable and rng.random() < _MIRRORED_SHARE,
        )
        for concept, (left, top, side) in zip(concepts, places, strict=True)
    )
    return objects, arrangement


def _places(rng: Random, count: int, elsewhere: bool) -> tuple[list[Place], Arrangement | None]:
    if count == 1:
        place, corner = _place_single(rng) if elsewhere else ((2, 2, 12), None)
        return [place], corner
    if count == 2:
        far, across, side = (9, 4, 7) if elsewhere else (8, 4, 8)
        if rng.random() < _SIDE_BY_SIDE:
            return [(0, across, side), (far, across, side)], "left of"
        return [(across, 0, side), (across, far, side)], "above"
    top = rng.choice((5, 6))
    return [(left, top, 5) for left in (0, rng.choice((5, 6)), 11)], "row"


def _place_single(rng: Random) -> tuple[Place, Arrangement | None]:
    """A place for a drawing by itself, and the corner it is in, if it is in one."""
    kind = rng.random()
    if kind < _SMALL_SHARE:
        side = SMALL
        if rng.random() < _CORNER_SHARE:
            corner = rng.choice(_CORNERS)
            vertical, horizontal = corner.split()
            near, far = 1, GRID - 1 - side
            left, top = (
                (near if horizontal == "left" else far),
                (near if vertical == "top" else far),
            )
            return (left, top, side), corner
    else:
        side = BIG if kind < _SMALL_SHARE + _BIG_SHARE else rng.choice(_USUAL)
    middle, drift = (GRID - side) // 2, _DRIFT[side]
    x, y = rng.choice(((0, 0), (-drift, 0), (drift, 0), (0, -drift), (0, drift)))
    return (middle + x, middle + y, side), None
