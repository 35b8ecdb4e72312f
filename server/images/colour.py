"""Conversion of decoded images of any mode and colour profile to RGBA in sRGB."""

from __future__ import annotations

import io

from PIL import Image, ImageCms

_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's modes by the colour space of a profile, as ICC spells it."""


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image as RGBA with 8 bits per channel.

    Args:
        image: of any mode.
        profile: ICC profile of its colours; None is sRGB. A profile that is damaged or of other colours than the
            image is ignored.
    """
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if profile is None:
        return image.convert("RGBA")
    plain = image if image.mode in ("L", "CMYK") else image.convert("RGBA")
    try:
        colours = _transformed(plain, profile)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image.convert("RGBA")
    if plain.mode == "RGBA":
        colours.putalpha(plain.getchannel("A"))
    return colours.convert("RGBA")


def _transformed(image: Image.Image, profile: bytes) -> Image.Image:
    """Return the colours of an image in sRGB; raises ValueError if the profile is of others."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = _SPACES.get(source.profile.xcolor_space)
    if mode is None or (mode == "CMYK") != (image.mode == "CMYK"):
        raise ValueError(f"a profile for {source.profile.xcolor_space}")
    if "sRGB" in ImageCms.getProfileDescription(source):  # nothing to do, and rounding would do it
        return image.convert("RGB")
    result = ImageCms.profileToProfile(
        image.convert(mode), source, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert result is not None  # it is None only when asked to work in place
    return result
