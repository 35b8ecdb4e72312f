"""Masks as people draw them: each is read as it was meant, or refused with both readings named."""

from __future__ import annotations

import pytest
from PIL import Image

from server.errors import UnusableImage
from server.images.mask import MaskKind, marked
from server.images.uploads import Upload
from tests.server.pictures import mask, photo, see_through

SIDE, BOX = 64, (16, 8, 48, 40)
INSIDE, OUTSIDE = mask(SIDE, BOX), mask(SIDE, BOX, inside=0)


def read(image: Image.Image, kind: MaskKind | None = None) -> bytes:
    return marked(Upload("mask", b""), image.convert("RGBA"), kind).tobytes()


def strokes(box: tuple[int, int, int, int]) -> Image.Image:
    """White in the box, transparent elsewhere."""
    layer = Image.new("RGBA", (SIDE, SIDE))
    layer.paste("white", box)
    return layer


def test_white_on_black() -> None:
    assert read(INSIDE) == INSIDE.tobytes()


def test_a_stray_transparent_pixel_is_an_accident() -> None:
    image = INSIDE.convert("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    assert read(image) == INSIDE.tobytes()


@pytest.mark.parametrize("layer", ["picture", "black", "white"])
def test_a_transparent_hole(layer: str) -> None:
    image = photo(SIDE) if layer == "picture" else Image.new("RGB", (SIDE, SIDE), layer)
    assert read(see_through(image, BOX)) == INSIDE.tobytes()


def test_black_strokes_on_a_transparent_layer_are_kept() -> None:
    layer = Image.new("RGBA", (SIDE, SIDE))
    layer.paste("black", BOX)
    assert read(layer) == OUTSIDE.tobytes()


@pytest.mark.parametrize("image", [strokes(BOX), see_through(INSIDE, (0, 0, 8, 8))])
def test_what_could_be_meant_either_way_is_refused_with_both_readings(image: Image.Image) -> None:
    with pytest.raises(UnusableImage) as refused:
        read(image)
    assert refused.value.param == "mask"
    assert 'mask_kind="alpha" to generate the transparent' in refused.value.message
    assert 'mask_kind="luminance" to generate the white' in refused.value.message


def test_the_kind_settles_it() -> None:
    assert read(strokes(BOX), "luminance") == INSIDE.tobytes()
    assert read(strokes(BOX), "alpha") == OUTSIDE.tobytes()
    assert read(INSIDE, "alpha") == bytes(SIDE * SIDE), "an opaque mask has no transparent pixels"
