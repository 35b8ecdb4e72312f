"""Stored images: their names, their failures, and what keeps the files."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import structlog

from server.errors import ImageStoreFailed
from server.images.encode import EXTENSIONS, FORMATS

T = TypeVar("T")

Operation = Literal["put", "get", "sweep"]
"""What a backend was asked for when it failed."""

_SECRET_BYTES = 24
_NAME = re.compile(rf"[A-Za-z0-9_-]{{32}}\.({'|'.join(EXTENSIONS.values())})")
_MEDIA_TYPES = {
    EXTENSIONS[image_format]: media_type for media_type, image_format in FORMATS.items()
}
_BACKEND_SECONDS = 30.0
_SWEEP_SECONDS = 60.0
_RETRY_SECONDS = 10

_SENTENCES: dict[Operation, str] = {
    "put": "The images were generated, but the server could not store them, so they have no URL; request them with "
    "response_format b64_json, or try again later.",
    "get": "The server cannot read its stored images at the moment; try again later.",
    "sweep": "Expired images could not be removed.",
}


@dataclass(frozen=True)
class StoredImage:
    """An image file.

    Args:
        media_type: such as ``image/png``.
        data: the file.
    """

    media_type: str
    data: bytes


class BackendError(Exception):
    """The medium that keeps the files failed; the text says why, for the log."""


class Backend(Protocol):
    """Keeps files by name for a limited time.

    Every method may raise :class:`BackendError`, and none blocks the event loop.
    """

    async def write(self, name: str, data: bytes) -> None:
        """Keep a file; its time begins."""
        ...

    async def read(self, name: str) -> bytes | None:
        """Return a file, or None if there is none or its time is over."""
        ...

    async def sweep(self) -> None:
        """Remove what is expired or exceeds the bounds."""
        ...

    async def close(self) -> None:
        """Release what the backend holds."""
        ...


def is_image_name(name: str) -> bool:
    """Tell whether a name has the form that :class:`ImageStore` gives: only these reach a backend."""
    return _NAME.fullmatch(name) is not None


class ImageStore:
    """Keeps images under names that cannot be guessed and end in the file's extension.

    Args:
        backend: keeps the files.
        max_images: as the backend bounds them; 0 keeps none.
        seconds: how long each is kept.
        failed: called with each operation that failed.
        backend_seconds: how long the backend may take for one operation.
    """

    def __init__(
        self,
        backend: Backend,
        max_images: int,
        seconds: float,
        failed: Callable[[Operation], None] = lambda _: None,
        backend_seconds: float = _BACKEND_SECONDS,
    ) -> None:
        self.max_images = max_images
        self.seconds = seconds
        self._backend = backend
        self._failed = failed
        self._backend_seconds = backend_seconds
        self._sweeper: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("star.images")

    async def put(self, image: StoredImage) -> str:
        """Keep an image.

        Returns:
            its name.

        Raises:
            ValueError: the store keeps no images.
            ImageStoreFailed: the backend failed, for example because its disk is full.
        """
        if not self.max_images:
            raise ValueError("the store keeps no images")
        extension = EXTENSIONS[FORMATS[image.media_type]]
        name = f"{secrets.token_urlsafe(_SECRET_BYTES)}.{extension}"
        await self._attempt("put", self._backend.write(name, image.data), name)
        return name

    async def get(self, name: str) -> StoredImage | None:
        """Return the image of that name, or None if there is none or its time is over.

        Raises:
            ImageStoreFailed: the backend failed.
        """
        if not is_image_name(name):
            return None
        data = await self._attempt("get", self._backend.read(name), name)
        media_type = _MEDIA_TYPES[name.rpartition(".")[2]]
        return StoredImage(media_type, data) if data is not None else None

    def start(self) -> None:
        """Begin to remove expired images from time to time; the event loop runs."""
        self._sweeper = asyncio.create_task(self._sweep_often())

    async def close(self) -> None:
        """Stop sweeping and release the backend."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        await self._backend.close()

    async def _sweep_often(self) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, self.seconds))
            with contextlib.suppress(ImageStoreFailed):
                await self._attempt("sweep", self._backend.sweep())

    async def _attempt(self, operation: Operation, work: Awaitable[T], name: str = "") -> T:
        """Await the backend; log and count its failure, without the image's name, which is a secret."""
        try:
            async with asyncio.timeout(self._backend_seconds):
                return await work
        except TimeoutError:
            reason = f"no answer within {self._backend_seconds:g} s"
        except BackendError as error:
            reason = str(error).replace(name, "<name>") if name else str(error)
        self._failed(operation)
        self._log.error("image store failed", operation=operation, reason=reason)
        raise ImageStoreFailed(_SENTENCES[operation], retry_after=_RETRY_SECONDS)
