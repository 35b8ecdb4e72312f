"""From the settings to the store of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from server.images.stores.directory import DirectoryBackend
from server.images.stores.memory import MemoryBackend
from server.images.stores.s3 import S3Backend
from server.images.stores.store import Backend, ImageStore, Operation
from server.settings import Settings


def open_store(settings: Settings, failed: Callable[[Operation], None]) -> ImageStore:
    """Return the store that the settings name.

    Args:
        settings: of the server.
        failed: called with each operation of the store that failed.

    Raises:
        SettingsFileError: its directory cannot be written to, or the extra that it needs is not installed.
    """
    backend = _backend(settings)
    return ImageStore(backend, settings.stored_images, settings.stored_s, failed)


def _backend(settings: Settings) -> Backend:
    images, size, seconds = settings.stored_images, settings.stored_bytes, settings.stored_s
    place = urlsplit(settings.image_store)
    match place.scheme:
        case "file":
            return DirectoryBackend(Path(unquote(place.path)), images, size, seconds)
        case "s3":
            return S3Backend(settings.image_store, seconds, settings.s3_endpoint)
        case _:
            return MemoryBackend(images, size, seconds)
