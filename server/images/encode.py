"""Encoding of pixels as PNG, WebP or JPEG files with metadata, signed or not."""

from __future__ import annotations

import asyncio
import io
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from server.images.metadata import ImageMetadata, png_texts, save_options
from server.messages import Pixels

ImageFormat = Literal["png", "webp", "jpeg"]

MEDIA_TYPES: dict[ImageFormat, str] = {
    "png": "image/png",
    "webp": "image/webp",
    "jpeg": "image/jpeg",
}
FORMATS = {media_type: name for name, media_type in MEDIA_TYPES.items()}
EXTENSIONS: dict[ImageFormat, str] = {"png": "png", "webp": "webp", "jpeg": "jpg"}
DEFAULT_QUALITY = 90
# The filtered rows of a PNG repeat little except for runs of one value. Searching only for runs takes a quarter of the
# time of zlib's default and gives 4 % more bytes.
_PNG_STRATEGY = zlib.Z_RLE


class Signer(Protocol):
    """Embeds a signed statement in image files; called from several threads."""

    def sign(self, data: bytes, media_type: str, metadata: ImageMetadata) -> bytes:
        """Return a file with the statement inside."""
        ...


def encode_image(
    pixels: Pixels,
    image_format: ImageFormat,
    quality: int | None = None,
    metadata: ImageMetadata | None = None,
    signer: Signer | None = None,
) -> bytes:
    """Encode an image file.

    Args:
        pixels: of the image.
        image_format: of the file.
        quality: 1 to 100, for WebP and JPEG; None is 90.
        metadata: what the file says about itself; None writes nothing.
        signer: signs the file if it has metadata.

    Returns:
        the file's bytes.

    Raises:
        SigningFailed: the signer could not sign.
    """
    image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.data)
    file = io.BytesIO()
    options: dict[str, Any] = {}
    if metadata is not None and image_format != "png":
        options = save_options(metadata)
    match image_format:
        case "png":
            info = PngInfo()
            for keyword, text in (png_texts(metadata) if metadata is not None else {}).items():
                info.add_itxt(keyword, text)
            image.save(file, "PNG", pnginfo=info, compress_type=_PNG_STRATEGY)
        case "webp":
            image.save(file, "WEBP", quality=quality or DEFAULT_QUALITY, method=2, **options)
        case "jpeg":
            image.save(file, "JPEG", quality=quality or DEFAULT_QUALITY, **options)
    if metadata is None or signer is None:
        return file.getvalue()
    return signer.sign(file.getvalue(), MEDIA_TYPES[image_format], metadata)


class ImageEncoder:
    """Encodes images in threads of its own, away from the event loop.

    Args:
        threads: number of threads.
        observe: called with the seconds that each image took.
        signer: signs files that are to be signed.
    """

    def __init__(
        self, threads: int, observe: Callable[[float], None], signer: Signer | None = None
    ) -> None:
        self._signer = signer
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="image-encoder")
        self._observe = observe

    async def encode(
        self,
        pixels: Pixels,
        image_format: ImageFormat,
        quality: int | None = None,
        metadata: ImageMetadata | None = None,
        *,
        signed: bool = True,
    ) -> bytes:
        """Encode an image file, and sign it if the server signs; see :func:`encode_image`."""
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        signer = self._signer if signed else None
        data = await loop.run_in_executor(
            self._pool, encode_image, pixels, image_format, quality, metadata, signer
        )
        self._observe(time.perf_counter() - started)
        return data

    def close(self) -> None:
        """End the threads once they have finished their current image."""
        self._pool.shutdown(wait=True, cancel_futures=True)
