"""Uploaded images: decoded to RGBA, or refused with a sentence.

Decoding takes time and memory, so it runs in the threads of :class:`server.images.encode.ImageEncoder`.
"""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from server.errors import InvalidRequest

_FORMATS = ("PNG", "JPEG", "WEBP")
_KINDS = "a PNG, JPEG or WebP file"


@dataclass(frozen=True)
class Upload:
    """An image file as it was uploaded.

    Args:
        field: name of the request's field, for errors.
        data: the file; a str is its base64 or a ``data:`` URL of it.
    """

    field: str
    data: bytes | str

    @property
    def file(self) -> bytes:
        """The bytes of the file.

        Raises:
            InvalidRequest: the text is not base64.
        """
        if isinstance(self.data, bytes):
            return self.data
        text = self.data
        if text.startswith(("http://", "https://")):
            raise self.refusal(f"must be {_KINDS} in base64; URLs are not fetched")
        if text.startswith("data:"):
            head, _, text = text.partition(",")
            if not head.endswith(";base64"):
                raise self.refusal(
                    "must be a data: URL in base64, such as data:image/png;base64,iVBORw0KGgo="
                )
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self.refusal(f"must be {_KINDS} in base64; this is not base64") from error

    def refusal(self, reason: str) -> InvalidRequest:
        """Return an error whose sentence begins with the field's name."""
        return InvalidRequest(f"{self.field} {reason}.", param=self.field)


@dataclass(frozen=True)
class EditFiles:
    """The files of one edit."""

    image: Upload
    mask: Upload | None = None


def read_image(upload: Upload, max_pixels: int) -> Image.Image:
    """Decode an image to RGBA with 8 bits per channel, turned as its EXIF data says.

    Args:
        upload: the file.
        max_pixels: pixels at most; a larger image is not decoded.

    Raises:
        InvalidRequest: the file is not an image, is animated, too large, or damaged.
    """
    file = upload.file
    if not file:
        raise upload.refusal(f"is an empty file; send {_KINDS}")
    too_large = f"more than the {max_pixels:,} allowed; make it smaller"
    try:
        image = Image.open(io.BytesIO(file), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise upload.refusal(f"must be {_KINDS}; convert it to one of these") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise upload.refusal(f"has far {too_large}") from error
    except Exception as error:  # decoders raise exceptions of many types
        raise _damaged(upload) from error
    with image:
        if image.width * image.height > max_pixels:
            raise upload.refusal(f"has {image.width} x {image.height} pixels, {too_large}")
        # MPO is a camera's JPEG followed by a preview; the first frame is the image.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise upload.refusal("is animated; send one frame of it")
        try:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip
                upright = upright.convert("I").point(lambda value: value * (1 / 257)).convert("L")
            return upright.convert("RGBA")
        except Exception as error:
            raise _damaged(upload) from error


def _damaged(upload: Upload) -> InvalidRequest:
    return upload.refusal(
        "cannot be decoded: the file is damaged or cut off; save or send it again"
    )
