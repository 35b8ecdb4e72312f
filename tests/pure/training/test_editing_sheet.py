"""The pictures of what editing does."""

from __future__ import annotations

from PIL import Image

from tests.star_model.tiny import build_tiny_model, tiny_config
from training.editing_sheet import SIDE, sheet


def test_each_row_is_one_image_and_what_becomes_of_it() -> None:
    drawn = sheet(build_tiny_model(tiny_config(patch_nums=(1, 2, 3, 4, 5, 6, 7, 8))))
    width, height = SIDE + 8, SIDE + 40
    assert drawn.size == (5 * width, 3 * height)

    def corner(column: int, row: int) -> Image.Image:
        """The upper left quarter of a picture, which no mask reaches and every canvas surrounds."""
        left, top = column * width + 4, row * height + 4
        return drawn.crop((left, top, left + SIDE // 2, top + SIDE // 2))

    inpainted, outpainted, varied = (
        [corner(column, row).tobytes() for column in range(1, 5)] for row in range(3)
    )
    assert len({*inpainted}) == 1, "kept"
    assert len({*outpainted}) == 4
    assert len({*varied[:3]}) == 3
