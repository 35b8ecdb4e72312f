"""Reading of a mask: by its transparent pixels, as OpenAI's API does, or by its white pixels, as editors draw masks.

Most masks can be read in one way only. A few pixels of transparency in a black-and-white mask are an accident of the
program that wrote it. White strokes on a transparent layer could be meant either way, so they are refused with both
readings named.
"""

from __future__ import annotations

from typing import Literal

from PIL import Image

from server.images.uploads import Upload

MaskKind = Literal["alpha", "luminance"]
"""The part to generate is transparent, or it is white."""

_HALF = 128
"""Threshold of 255: a pixel of at least this brightness is white, one of less opacity is transparent."""
_DARKEST_WHITE, _BRIGHTEST_BLACK = 224, 31
_STRAY = 0.001
"""Share of a mask's pixels up to which transparent ones are an accident."""
_NEARLY_ALL, _SOME = 0.99, 0.01


def marked(upload: Upload, mask: Image.Image, kind: MaskKind | None) -> Image.Image:
    """Return the part to generate, 255 in a mask in L.

    Args:
        upload: the file of the mask, for errors.
        mask: in RGBA.
        kind: of the mask; None finds out.

    Raises:
        UnusableImage: both kinds are as likely.
    """
    clear = transparent(mask)
    if (kind or _likely_kind(upload, mask, clear)) == "alpha":
        return clear
    black = Image.new("RGBA", mask.size, "black")
    seen = Image.alpha_composite(black, mask).convert("L")
    return seen.point(lambda value: 255 if value >= _HALF else 0)


def transparent(image: Image.Image) -> Image.Image:
    """Return the transparent pixels of an image in RGBA, 255 in a mask in L."""
    return image.getchannel("A").point(lambda value: 255 if value < _HALF else 0)


def _likely_kind(upload: Upload, mask: Image.Image, clear: Image.Image) -> MaskKind:
    pixels = mask.width * mask.height
    shades = mask.convert("L").histogram(clear.point(lambda value: 255 - value))
    opaque = sum(shades)
    white, black = sum(shades[_DARKEST_WHITE:]), sum(shades[: _BRIGHTEST_BLACK + 1])
    if opaque == pixels:
        return "luminance"
    if white + black < _NEARLY_ALL * opaque or not white or not opaque:
        return "alpha"  # a picture with a hole, or a black layer with one
    if black >= _SOME * opaque and white >= _SOME * opaque:
        if pixels - opaque <= _STRAY * pixels:
            return "luminance"
    elif white < _NEARLY_ALL * opaque or 2 * opaque > pixels:
        return "alpha"  # a white layer with a hole, or hardly any white
    raise upload.unusable(
        'has both white and transparent parts: send mask_kind="alpha" to generate the transparent ones, or '
        'mask_kind="luminance" to generate the white ones',
        "mask",
    )
