"""The colour around the painted part of an image."""

from __future__ import annotations

import pytest
from PIL import Image

from server.images.surroundings import colour_around
from star_model.colours import COLOURS

SIDE = 512
Box = tuple[int, int, int, int]


def mask_of(box: Box, *, inside: bool = True) -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE), 0 if inside else 255)
    mask.paste(255 if inside else 0, box)
    return mask


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("shift", [-20, 20])
def test_each_is_told_from_the_others(name: str, shift: int) -> None:
    shade = tuple(min(max(level + shift, 0), 255) for level in COLOURS[name])
    image = Image.new("RGB", (SIDE, SIDE), shade)
    assert colour_around(image, mask_of((100, 100, 200, 200)), placed=False) == name


@pytest.mark.parametrize(
    ("box", "found"),
    [
        ((0, 0, 150, 150), "white"),  # in the corner
        ((40, 100, 140, 200), "white"),  # a third of what is around it is the thing
        ((200, 200, 300, 300), ""),  # within the thing, whose colour has no name
        ((200, 90, 400, 300), ""),  # most of it
    ],
)
def test_half_of_what_is_around_decides(box: Box, found: str) -> None:
    image = Image.new("RGB", (SIDE, SIDE), COLOURS["white"])
    image.paste((200, 255, 0), (120, 110, 420, 420))
    assert colour_around(image, mask_of(box), placed=False) == found


def test_a_background_has_no_surroundings_but_a_placed_image_is_them() -> None:
    image = Image.new("RGB", (SIDE, SIDE), COLOURS["red"])
    around = mask_of((100, 100, 400, 400), inside=False)
    assert colour_around(image, around, placed=False) == ""
    assert colour_around(image, around, placed=True) == "red"
