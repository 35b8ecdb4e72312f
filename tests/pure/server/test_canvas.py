"""From files to what is painted on: sizes, masks, places."""

from __future__ import annotations

import pytest
from PIL import Image

from server.errors import InvalidRequest
from server.images.canvas import Box, EditOptions, parse_place, read_edit
from server.images.uploads import EditFiles, Upload
from server.messages import ImageEdit
from tests.server.pictures import file_of, mask, photo, see_through

SIDE, SCALES = 32, 10
BOX = (4, 8, 20, 24)


def edit_of(
    image: Image.Image,
    marks: Image.Image | None = None,
    *,
    keep_scales: int | None = None,
    place: str | None = None,
) -> ImageEdit:
    box = parse_place(place) if place is not None else None
    upload = Upload("mask", file_of(marks)) if marks is not None else None
    files = EditFiles(Upload("image", file_of(image)), upload)
    return read_edit(
        files,
        EditOptions(keep_scales, box, focus=True, feather=True),
        sizes=[(SIDE, SIDE)],
        scales=SCALES,
        max_pixels=1 << 20,
    )


def test_the_canvas_has_the_shape_of_the_image() -> None:
    files = EditFiles(Upload("image", file_of(Image.new("RGB", (60, 30), "red"))))
    sizes = [(SIDE, SIDE), (2 * SIDE, SIDE), (SIDE, 2 * SIDE)]

    def edit(place: Box | None = None) -> ImageEdit:
        options = EditOptions(None, place, focus=True, feather=True)
        return read_edit(files, options, sizes=sizes, scales=SCALES, max_pixels=1 << 20)

    found = edit()
    assert (found.image.width, found.image.height) == (2 * SIDE, SIDE)
    assert found.mask is None
    placed = edit(place=(0.0, 0.0, 1.0, 0.5))
    assert (placed.image.width, placed.image.height) == (SIDE, SIDE)
    assert placed.mask is not None
    mask = Image.frombytes("L", (SIDE, SIDE), placed.mask)
    assert mask.getbbox() == (0, SIDE // 2, SIDE, SIDE)


def painted(edit: ImageEdit) -> Image.Image:
    assert edit.mask is not None
    assert set(edit.mask) <= {0, 255}
    return Image.frombytes("L", (SIDE, SIDE), edit.mask)


def refusal(field: str, *arguments: Image.Image, place: str | None = None) -> str:
    with pytest.raises(InvalidRequest) as refused:
        edit_of(*arguments, place=place)
    assert refused.value.param == field
    assert refused.value.message.startswith(field)
    assert refused.value.message.endswith(".")
    return refused.value.message


# ---- masks -------------------------------------------------------------------------------------------------
def test_an_image_of_the_models_size_is_not_touched() -> None:
    edit = edit_of(photo(SIDE), mask(SIDE, BOX))
    assert (edit.image.width, edit.image.height, edit.image.data) == (
        SIDE,
        SIDE,
        photo(SIDE).tobytes(),
    )


@pytest.mark.parametrize(
    "marks",
    [
        mask(SIDE, BOX),
        mask(SIDE, BOX).convert("1"),
        mask(SIDE, BOX).convert("RGB"),
        mask(SIDE, BOX).convert("RGBA"),  # opaque everywhere, so what counts is white
        mask(SIDE, BOX).point(
            lambda value: 130 if value else 126
        ),  # as a JPEG or an editor may blur it
        see_through(photo(SIDE), BOX),
        see_through(Image.new("RGB", (SIDE, SIDE), "white"), BOX),
        see_through(Image.new("RGB", (SIDE, SIDE), "black"), BOX),
    ],
    ids=[
        "L",
        "1",
        "RGB",
        "RGBA",
        "grey",
        "transparent photo",
        "transparent white",
        "transparent black",
    ],
)
def test_white_or_transparent_is_painted(marks: Image.Image) -> None:
    edit = edit_of(photo(SIDE), marks)
    assert painted(edit).tobytes() == mask(SIDE, BOX).tobytes()
    assert (edit.keep_scales, edit.erase, edit.focus, edit.feather) == (1, True, True, True)


def test_without_a_mask_what_is_transparent_in_the_image_is_painted() -> None:
    edit = edit_of(see_through(photo(SIDE), BOX))
    assert painted(edit).tobytes() == mask(SIDE, BOX).tobytes()
    outside = mask(SIDE, BOX, inside=0)
    kept = Image.composite(photo(SIDE), Image.new("RGB", (SIDE, SIDE)), outside)
    seen = Image.frombytes("RGB", (SIDE, SIDE), edit.image.data)
    assert (
        Image.composite(seen, Image.new("RGB", (SIDE, SIDE)), outside).tobytes() == kept.tobytes()
    )


def test_a_mask_goes_before_what_is_transparent() -> None:
    edit = edit_of(see_through(photo(SIDE), (0, 0, 2, 2)), mask(SIDE, BOX))
    assert painted(edit).tobytes() == mask(SIDE, BOX).tobytes()
    assert edit.image.data[:3] == b"\xff\xff\xff", "laid on white"


def test_no_pixel_of_a_mask_gets_lost() -> None:
    """One pixel of a large mask is one of the canvas; a mask that is scaled up covers what it did."""
    small = painted(edit_of(photo(320), mask(320, (163, 77, 164, 78))))
    assert small.getbbox() == (16, 7, 17, 8)
    large = painted(edit_of(photo(8), mask(8, (2, 3, 4, 6))))
    assert large.tobytes() == mask(SIDE, (8, 12, 16, 24)).tobytes()


@pytest.mark.parametrize("keep_scales", [None, 0, 3])
def test_what_is_to_be_kept_inside_is_not_erased(keep_scales: int | None) -> None:
    edit = edit_of(photo(SIDE), mask(SIDE, BOX), keep_scales=keep_scales)
    assert edit.keep_scales == (1 if keep_scales is None else keep_scales)
    assert edit.erase == (keep_scales != 3)


@pytest.mark.parametrize(("keep_scales", "kept"), [(None, 5), (0, 0), (10, 10)])
def test_without_a_mask_it_is_a_variation(keep_scales: int | None, kept: int) -> None:
    edit = edit_of(photo(SIDE), keep_scales=keep_scales)
    assert (edit.mask, edit.keep_scales) == (None, kept)


def test_masks_that_are_of_no_use() -> None:
    image = photo(SIDE)
    assert "32 x 32 pixels; it has 16 x 32" in refusal("mask", image, Image.new("L", (16, 32)))
    assert "marks nothing to generate: make the part to generate transparent" in refusal(
        "mask", image, Image.new("L", image.size)
    )
    assert "marks everything" in refusal("mask", image, Image.new("L", image.size, 255))
    assert "marks everything" in refusal("mask", image, Image.new("RGBA", image.size))
    assert "marks everything" in refusal("image", Image.new("RGBA", image.size))


# ---- sizes and places --------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(16, 16), (64, 64), (300, 302)])
def test_another_size_is_fitted(size: tuple[int, int]) -> None:
    edit = edit_of(Image.new("RGB", size, (9, 90, 190)))
    assert edit.mask is None
    assert edit.image.data == bytes((9, 90, 190)) * SIDE * SIDE


def test_another_shape_is_refused_with_a_way_out() -> None:
    assert (
        '64 x 48 pixels, and the model generates squares: crop it to one, or send place="0,0,1,1"'
        in refusal("image", photo(64, 48))
    )


@pytest.mark.parametrize(
    ("size", "place", "expected"),
    [
        ((64, 64), "0.25,0.5,0.75,1", (8, 16, 24, 32)),
        ((64, 48), "0,0,1,1", (0, 4, 32, 28)),
        ((48, 64), "0,0,1,1", (4, 0, 28, 32)),
        ((64, 32), "0.5, 0.5, 1.0, 1.0", (16, 20, 32, 28)),
        ((8, 8), ".25,0,0.5,0.25", (8, 0, 16, 8)),
    ],
)
def test_an_image_is_placed_without_being_stretched(
    size: tuple[int, int], place: str, expected: tuple[int, int, int, int]
) -> None:
    edit = edit_of(Image.new("RGB", size, "red"), place=place)
    assert painted(edit).tobytes() == mask(SIDE, expected, inside=0).tobytes()
    canvas = Image.frombytes("RGB", (SIDE, SIDE), edit.image.data)
    assert canvas.crop(expected).getcolors() == [
        ((expected[2] - expected[0]) * (expected[3] - expected[1]), (255, 0, 0))
    ]
    assert (edit.keep_scales, edit.erase) == (1, True)


def test_an_image_that_is_placed_at_its_own_size_is_not_touched() -> None:
    edit = edit_of(photo(16), place="0.5,0,1,0.5")
    seen = Image.frombytes("RGB", (SIDE, SIDE), edit.image.data).crop((16, 0, 32, 16))
    assert seen.tobytes() == photo(16).tobytes()


def test_a_place_and_a_hole_are_both_painted() -> None:
    edit = edit_of(photo(16), mask(16, (0, 0, 4, 4)), place="0.5,0.5,1,1")
    expected = mask(SIDE, (16, 16, 32, 32), inside=0)
    expected.paste(255, (16, 16, 20, 20))
    assert painted(edit).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "place",
    [
        "",
        "1",
        "0,0,1",
        "0,0,1,1,1",
        "0,0,a,1",
        "0,0,nan,1",
        "-0.1,0,1,1",
        "0,0,1.1,1",
        "0.5,0,0.5,1",
        "0,1,1,0",
    ],
)
def test_a_place_must_be_on_the_canvas(place: str) -> None:
    assert 'as fractions of the canvas from 0 to 1, such as "0.25' in refusal(
        "place", photo(8), place=place
    )


def test_a_place_must_leave_something() -> None:
    assert "leaves nothing to generate" in refusal("place", photo(8), place="0,0,1,1")
    assert "less than a pixel" in refusal("place", photo(8), place="0,0,0.01,0.01")
