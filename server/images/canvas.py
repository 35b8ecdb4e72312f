"""Preparation of an edit: from the uploaded files to a canvas of one of the model's sizes and a mask.

A mask marks the part to generate: with its transparent pixels or with its white pixels, see
:mod:`server.images.mask`. Without a mask, the transparent pixels of the image mark it, if there are any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from server.errors import InvalidRequest
from server.images.mask import MaskKind, marked, transparent
from server.images.surroundings import colour_around
from server.images.uploads import EditFiles, Upload, read_image
from server.messages import ImageEdit, Pixels

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, as fractions of the canvas."""

Size = tuple[int, int]
"""Width and height in pixels."""

_SAME_SHAPE = 1.01
"""How many times longer, relative to the other side, an image may be than a canvas whose shape it counts as having."""
_NUMBER = re.compile(r"\d*\.?\d+")


@dataclass(frozen=True)
class EditOptions:
    """How an image is to be edited.

    Args:
        keep_scales: coarse scales taken from the image inside the mask too; None is the default.
        place: box of the image on the canvas; None fills the canvas.
        focus: generate a small masked part at full resolution, in a window around it.
        feather: blend into the generated part.
        mask_kind: which pixels of the mask mark the part to generate; None finds out.
    """

    keep_scales: int | None
    place: Box | None
    focus: bool
    feather: bool
    mask_kind: MaskKind | None = None


def parse_place(text: str) -> Box:
    """Parse a box such as ``"0.25,0.25,0.75,0.75"``.

    Raises:
        InvalidRequest: the text is not a box on the canvas.
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
    files: EditFiles,
    options: EditOptions,
    *,
    sizes: Sequence[Size],
    scales: int,
    max_pixels: int,
) -> ImageEdit:
    """Decode the files of an edit and lay them out on the canvas.

    Args:
        files: as they were uploaded.
        options: see :class:`EditOptions`.
        sizes: that the canvas may have: those of the model's images, or the one that the request names.
        scales: number of the model's scales.
        max_pixels: pixels of an uploaded image at most.

    Raises:
        InvalidRequest: a file or the mask is unusable; ``param`` names the field.
    """
    image = read_image(files.image, max_pixels)
    holes = _holes(files, image, options.mask_kind, max_pixels)
    size = sizes[0] if options.place is not None else _fitting(image, sizes)
    canvas, mask = _lay_out(image, holes, _target(image, options.place, size), size)
    if mask is not None:
        _check(mask, files.mask or files.image)
    elif options.place is not None:
        raise InvalidRequest(
            "place leaves nothing to generate; give the image less of the canvas.", param="place"
        )
    keep_scales = options.keep_scales
    if keep_scales is None:
        keep_scales = scales // 2 if mask is None else 1
    return ImageEdit(
        image=Pixels(*size, canvas.tobytes()),
        mask=mask.tobytes() if mask is not None else None,
        keep_scales=keep_scales,
        erase=not options.keep_scales,  # scales to keep need the content inside the mask
        focus=options.focus,
        feather=options.feather,
        around=""
        if mask is None
        else colour_around(canvas, mask, placed=options.place is not None),
    )


def _holes(
    files: EditFiles, image: Image.Image, kind: MaskKind | None, max_pixels: int
) -> Image.Image | None:
    """Return the part to generate, 255 in a mask of the image's size; None if neither file marks any."""
    if files.mask is None:
        holes = transparent(image)
        return holes if holes.getbbox() is not None else None
    mask = read_image(files.mask, max_pixels)
    if mask.size != image.size:
        raise files.mask.unusable(
            f"must have the image's size, {image.width} x {image.height} pixels; it has {mask.width} x {mask.height}",
            "mask",
        )
    return marked(files.mask, mask, kind)


def _fitting(image: Image.Image, sizes: Sequence[Size]) -> Size:
    """Return the size with the shape of the image; raises ``InvalidRequest`` if there is none."""
    for width, height in sizes:
        ratio = (image.width * height) / (image.height * width)
        if 1 / _SAME_SHAPE <= ratio <= _SAME_SHAPE:
            return width, height
    if len(sizes) > 1:
        shapes = ", ".join(f"{width} x {height}" for width, height in sizes)
        rule, remedy = f"the model generates {shapes}", "crop it to the shape of one of them"
    elif sizes[0][0] == sizes[0][1]:
        rule, remedy = "the model generates squares", "crop it to one"
    else:
        rule, remedy = f"the result has {sizes[0][0]} x {sizes[0][1]}", "crop it to that shape"
    raise InvalidRequest(
        f"image has {image.width} x {image.height} pixels, and {rule}: {remedy}, or "
        'send place="0,0,1,1" to have the missing part generated.',
        param="image",
    )


def _target(image: Image.Image, place: Box | None, canvas: Size) -> tuple[int, int, int, int]:
    """Return the box of the image on the canvas, in pixels: centred in ``place``, as large as fits."""
    if place is None:
        return 0, 0, *canvas
    left, right = (edge * canvas[0] for edge in place[::2])
    top, bottom = (edge * canvas[1] for edge in place[1::2])
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
    image: Image.Image, holes: Image.Image | None, target: tuple[int, int, int, int], whole: Size
) -> tuple[Image.Image, Image.Image | None]:
    """Return the canvas in RGB and the mask of the part to generate; None is all of it, starting from the image."""
    left, top, right, bottom = target
    size = (right - left, bottom - top)
    fitted = image.resize(size, Image.Resampling.BICUBIC)  # the image itself if it has that size
    canvas = Image.new("RGB", whole)
    canvas.paste(
        Image.alpha_composite(Image.new("RGBA", size, "white"), fitted).convert("RGB"), (left, top)
    )
    if holes is None and size == whole:
        return canvas, None
    mask = Image.new("L", whole, 255)
    if holes is None:
        mask.paste(0, target)
    else:  # a pixel that the mask touches at all is generated
        touched = holes.resize(size, Image.Resampling.BOX).point(lambda value: 255 if value else 0)
        mask.paste(touched, (left, top))
    return canvas, mask


def _check(mask: Image.Image, upload: Upload) -> None:
    """Refuse a mask that leaves nothing to generate, or nothing to keep; ``upload`` is where it comes from."""
    lowest, highest = mask.getextrema()
    if not highest:
        raise upload.unusable(
            "marks nothing to generate: make the part to generate transparent or, in an opaque mask, white",
            "mask",
        )
    if lowest:
        raise upload.unusable(
            "marks everything: make the part to keep opaque or, in an opaque mask, black", "mask"
        )
