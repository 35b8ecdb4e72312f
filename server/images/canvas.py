"""From the files of an edit to what the worker paints on: a canvas of the model's size, and a mask.

A mask says what is to be painted: its transparent pixels, if it has any; if not, its white ones. Without a mask,
the transparent pixels of the image are it, if there are any.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import Image

from server.errors import InvalidRequest
from server.images.uploads import EditFiles, Upload, read_image
from server.messages import ImageEdit, Pixels

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, as fractions of the canvas."""

_SQUARE = 1.01
"""Ratio of the sides up to which an image is taken for a square."""
_HALF = 128
"""Of 255: what is whiter is white, and what is less opaque is transparent."""
_NUMBER = re.compile(r"\d*\.?\d+")


@dataclass(frozen=True)
class EditOptions:
    """How an image is to be edited.

    Args:
        keep_scales: coarse scales that are the image's own inside the mask too; None is the default.
        place: where on the canvas the image goes, if not everywhere.
        focus: paint a small masked part at full resolution, in a window around it.
        feather: fade into the painted part.
    """

    keep_scales: int | None
    place: Box | None
    focus: bool
    feather: bool


def parse_place(text: str) -> Box:
    """``"0.25,0.25,0.75,0.75"`` as numbers.

    Raises:
        InvalidRequest: it is anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 4 and all(_NUMBER.fullmatch(part) for part in parts):
        left, top, right, bottom = map(float, parts)
        if left < right <= 1 and top < bottom <= 1:
            return left, top, right, bottom
    raise InvalidRequest(
        'place must be left,top,right,bottom as fractions of the canvas from 0 to 1, such as "0.25,0.25,0.75,0.75".',
        param="place",
    )


def read_edit(
    files: EditFiles, options: EditOptions, *, side: int, scales: int, max_pixels: int
) -> ImageEdit:
    """Decode the files of an edit, and lay them out.

    Args:
        files: as they were sent.
        options: see :class:`EditOptions`.
        side: of the model's images, in pixels.
        scales: of the model.
        max_pixels: of an image that is decoded.

    Raises:
        InvalidRequest: a file or the mask is of no use; ``param`` names the field.
    """
    image = read_image(files.image, max_pixels)
    holes = _holes(files, image, max_pixels)
    canvas, mask = _lay_out(image, holes, _target(image, options.place, side), side)
    if mask is not None:
        _check(mask, files.mask or files.image)
    elif options.place is not None:
        raise InvalidRequest(
            "place leaves nothing to paint; give the image less of the canvas.", param="place"
        )
    keep_scales = options.keep_scales
    if keep_scales is None:
        keep_scales = scales // 2 if mask is None else 1
    return ImageEdit(
        image=Pixels(side, side, canvas.tobytes()),
        mask=mask.tobytes() if mask is not None else None,
        keep_scales=keep_scales,
        erase=not options.keep_scales,  # what is to be kept of the inside must not be forgotten
        focus=options.focus,
        feather=options.feather,
    )


def _holes(files: EditFiles, image: Image.Image, max_pixels: int) -> Image.Image | None:
    """What of the image is to be painted, 255 in a mask of its size; None if nothing says so."""
    if files.mask is None:
        return _transparent(image)
    mask = read_image(files.mask, max_pixels)
    if mask.size != image.size:
        raise files.mask.refusal(
            f"must be of the image's size, {image.width} x {image.height} pixels; it has {mask.width} x {mask.height}"
        )
    transparent = _transparent(mask)
    if transparent is not None:
        return transparent
    return mask.convert("L").point(lambda value: 255 if value >= _HALF else 0)


def _transparent(image: Image.Image) -> Image.Image | None:
    """The transparent pixels, 255 in a mask; None if there are none."""
    mask = image.getchannel("A").point(lambda value: 255 if value < _HALF else 0)
    return mask if mask.getbbox() is not None else None


def _target(image: Image.Image, place: Box | None, side: int) -> tuple[int, int, int, int]:
    """Where on the canvas the image goes, in pixels: into the middle of ``place``, as large as it fits."""
    if place is None:
        if max(image.size) > _SQUARE * min(image.size):
            raise InvalidRequest(
                f"image has {image.width} x {image.height} pixels, and the model paints squares: crop it to one, or "
                'send place="0,0,1,1" to have painted what is missing.',
                param="image",
            )
        return 0, 0, side, side
    left, top, right, bottom = (edge * side for edge in place)
    factor = min((right - left) / image.width, (bottom - top) / image.height)
    width, height = round(image.width * factor), round(image.height * factor)
    if not width or not height:
        raise InvalidRequest(
            "place leaves less than a pixel for the image; give it more of the canvas.",
            param="place",
        )
    x, y = round((left + right - width) / 2), round((top + bottom - height) / 2)
    return x, y, x + width, y + height


def _lay_out(
    image: Image.Image, holes: Image.Image | None, target: tuple[int, int, int, int], side: int
) -> tuple[Image.Image, Image.Image | None]:
    """The canvas in RGB, and what of it is to be painted; None is all of it, with the image to go by."""
    left, top, right, bottom = target
    size = (right - left, bottom - top)
    fitted = image.resize(size, Image.Resampling.BICUBIC)  # the image itself if it is of that size
    canvas = Image.new("RGB", (side, side))
    canvas.paste(
        Image.alpha_composite(Image.new("RGBA", size, "white"), fitted).convert("RGB"), (left, top)
    )
    if holes is None and size == (side, side):
        return canvas, None
    mask = Image.new("L", (side, side), 255)
    if holes is None:
        mask.paste(0, target)
    else:  # a pixel with any of the mask in it is painted
        touched = holes.resize(size, Image.Resampling.BOX).point(lambda value: 255 if value else 0)
        mask.paste(touched, (left, top))
    return canvas, mask


def _check(mask: Image.Image, upload: Upload) -> None:
    """Refuse what leaves nothing to paint, or nothing to keep; ``upload`` is where the mask is from."""
    lowest, highest = mask.getextrema()
    if not highest:
        raise upload.refusal(
            "marks nothing to paint: make transparent, or white in an opaque mask, what is to be painted"
        )
    if lowest:
        raise upload.refusal(
            "marks everything to be painted: make opaque, or black in an opaque mask, what is to be kept"
        )
