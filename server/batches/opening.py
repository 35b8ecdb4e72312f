"""From the settings to the store of batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from server.batches.directory import DirectoryObjects
from server.batches.objects import BatchOperation, GuardedObjects, Objects
from server.batches.s3 import S3Objects
from server.settings import Settings


def open_objects(
    settings: Settings, failed: Callable[[BatchOperation], None]
) -> GuardedObjects | None:
    """Return the store that the settings name; None if they name none.

    Args:
        settings: of the server.
        failed: called with each operation of the store that failed.

    Raises:
        SettingsFileError: its directory cannot be written to, or the extra that it needs is not installed.
    """
    if settings.batch_store is None:
        return None
    place = urlsplit(settings.batch_store)
    backend: Objects = (
        S3Objects(settings.batch_store, settings.s3_endpoint)
        if place.scheme == "s3"
        else DirectoryObjects(Path(unquote(place.path)))
    )
    return GuardedObjects(backend, failed)
