"""Finished images, kept for a limited time so that clients can fetch them by URL."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import TTLCache

_NAME_BYTES = 24


@dataclass(frozen=True)
class StoredImage:
    """An image file.

    Args:
        media_type: such as ``image/png``.
        data: the file.
    """

    media_type: str
    data: bytes


class ImageStore:
    """Keeps the latest images in memory, each for a limited time, under names that cannot be guessed.

    Args:
        max_images: images kept at most; 0 keeps none.
        max_bytes: bytes of all files at most.
        seconds: time that each is kept.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        max_images: int,
        max_bytes: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_images = max_images
        self.seconds = seconds
        self._images: TTLCache[str, StoredImage] = TTLCache(
            max_bytes, seconds, timer=clock, getsizeof=lambda image: len(image.data)
        )

    def put(self, image: StoredImage) -> str:
        """Keep an image; the least recently fetched ones make room for it.

        Returns:
            its name.

        Raises:
            ValueError: the store keeps none, or none of this size.
        """
        if not self.max_images:
            raise ValueError("the store keeps no images")
        with self._images.timer:  # the same time for all of these operations
            while len(self._images) >= self.max_images:
                self._images.popitem()
            name = secrets.token_urlsafe(_NAME_BYTES)
            self._images[name] = image
        return name

    def get(self, name: str) -> StoredImage | None:
        """Return the image of that name; None if it has expired or had to make room."""
        return self._images.get(name)
