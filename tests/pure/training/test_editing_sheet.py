"""The pictures of what editing does."""

from __future__ import annotations

import torch
from PIL import Image

from tests.star_model.tiny import build_tiny_model, tiny_config
from training.editing_sheet import MARGIN, SIDE, behind, sheet


def test_each_row_is_one_image_and_what_becomes_of_it() -> None:
    drawn = sheet(build_tiny_model(tiny_config(patch_nums=(1, 2, 3, 4, 5, 6, 7, 8))))
    width, height = SIDE + 8, SIDE + 40
    assert drawn.size == (5 * width, 3 * height)

    def corner(column: int, row: int) -> Image.Image:
        """The upper left of a picture, outside of the square that is masked in the second row."""
        left, top = column * width + 4, row * height + 4
        return drawn.crop((left, top, left + SIDE // 20, top + SIDE // 20))

    _, replaced, varied = (
        [corner(column, row).tobytes() for column in range(1, 5)] for row in range(3)
    )
    assert len({*replaced}) == 1, "kept"
    assert len({*varied[:3]}) == 3


def test_behind_is_what_has_the_colour_of_the_corner_but_for_a_margin() -> None:
    image = torch.full((32, 32, 3), 200, dtype=torch.uint8)
    image[12:20, 10:16] = 90
    image[0, 5] = 200 + 30  # noise
    expected = torch.ones(32, 32, dtype=torch.bool)
    expected[12 - MARGIN : 20 + MARGIN, 10 - MARGIN : 16 + MARGIN] = False
    assert torch.equal(behind(image), expected)
