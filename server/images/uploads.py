"""Uploaded images: decoded to RGBA, or refused with a sentence.

Files are inspected before they are decoded. Both happen in the processes of
:class:`server.images.decode_pool.DecodePool`, away from the event loop.
"""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass
from urllib.parse import unquote

from PIL import Image, ImageOps, UnidentifiedImageError

from server.errors import InvalidRequest, UnusableImage, UploadReason
from server.images.colour import to_srgb
from server.images.structure import UnsafeStructure, inspect, strip_png

_FORMATS = ("PNG", "JPEG", "WEBP")
_KINDS = "a PNG, JPEG or WebP file"
_STANDARD_ALPHABET = str.maketrans("-_", "+/")


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
        if text[:8].lower().startswith(("http://", "https://")):
            raise self.refusal(f"must be {_KINDS} in base64; URLs are not fetched")
        if text[:5].lower() == "data:":
            head, _, text = text.partition(",")
            if not head.lower().endswith(";base64"):
                raise self.refusal(
                    "must be a data: URL in base64, such as data:image/png;base64,iVBORw0KGgo="
                )
        try:
            return _decode_base64(unquote(text) if "%" in text else text)
        except (binascii.Error, ValueError) as error:
            raise self.refusal(f"must be {_KINDS} in base64; this is not base64") from error

    def refusal(self, reason: str) -> InvalidRequest:
        """Return an error whose sentence begins with the field's name."""
        return InvalidRequest(f"{self.field} {reason}.", param=self.field)

    def unusable(self, problem: str, reason: UploadReason) -> UnusableImage:
        """Return an error about the file itself."""
        return UnusableImage(f"{self.field} {problem}.", param=self.field, reason=reason)


def _decode_base64(text: str) -> bytes:
    """Decode base64 of either alphabet, in lines or in one, with or without padding; raises ValueError."""
    plain = "".join(text.split()).translate(_STANDARD_ALPHABET).rstrip("=")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


@dataclass(frozen=True)
class EditFiles:
    """The files of one edit."""

    image: Upload
    mask: Upload | None = None


def read_image(upload: Upload, max_pixels: int) -> Image.Image:
    """Decode an image to RGBA with 8 bits per channel in sRGB, turned as its EXIF data says.

    Args:
        upload: the file.
        max_pixels: pixels at most; a larger image is not decoded.

    Raises:
        InvalidRequest: the text is not base64.
        UnusableImage: the file is not an image, is animated, too large, damaged, or hard to decode on purpose.
    """
    file = upload.file
    if not file:
        raise upload.unusable(f"is an empty file; send {_KINDS}", "format")
    _check_structure(upload, file, max_pixels)
    file, profile = strip_png(file)
    with _opened(upload, file, max_pixels) as image:
        # MPO is a camera's JPEG followed by a preview; the first frame is the image.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise upload.unusable("is animated; send one frame of it", "format")
        try:
            image.load()
            return to_srgb(_upright(image), profile or image.info.get("icc_profile"))
        except MemoryError:
            raise
        except Exception as error:
            raise _damaged(upload) from error


def _check_structure(upload: Upload, file: bytes, max_pixels: int) -> None:
    try:
        size = inspect(file)
    except UnsafeStructure as error:
        raise upload.unusable(
            f"{error}; save it again with another program", "structure"
        ) from error
    if size is not None and size.width * size.height > max_pixels:
        raise _too_large(upload, size, max_pixels)


def _opened(upload: Upload, file: bytes, max_pixels: int) -> Image.Image:
    """Return the image, not decoded yet if it is a PNG or JPEG."""
    try:
        image = Image.open(io.BytesIO(file), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise upload.unusable(f"must be {_KINDS}; convert it to one of these", "format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        problem = f"has far more than the {max_pixels:,} pixels allowed; make it smaller"
        raise upload.unusable(problem, "size") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise exceptions of many types
        raise _damaged(upload) from error
    if image.width * image.height > max_pixels:
        raise _too_large(upload, image.size, max_pixels)
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF data of many cameras is malformed; the pixels are fine
        return image


def _too_large(upload: Upload, size: tuple[int, int], max_pixels: int) -> UnusableImage:
    problem = (
        f"has {size[0]} x {size[1]} pixels, more than the {max_pixels:,} allowed; make it smaller"
    )
    return upload.unusable(problem, "size")


def _damaged(upload: Upload) -> UnusableImage:
    return upload.unusable(
        "cannot be decoded: the file is damaged or cut off; save or send it again", "damaged"
    )
