"""Objects kept in a bucket of S3, or of a service that speaks its protocol."""

from __future__ import annotations

from collections.abc import Sequence

from server.batches.objects import Entry
from server.images.stores.s3 import open_bucket
from server.images.stores.store import BackendError


class S3Objects:
    """Keeps objects in a bucket, under a prefix.

    Args:
        url: such as ``s3://bucket/prefix``.
        endpoint: address of the service; AWS's own, or ``AWS_ENDPOINT_URL``, when None.

    Raises:
        SettingsFileError: the extra ``s3`` is not installed, or the configuration is not valid.
    """

    def __init__(self, url: str, endpoint: str | None = None) -> None:
        self._bucket = open_bucket("batch_store", url, endpoint)

    async def write(self, name: str, data: bytes) -> None:
        """Keep an object in place of any that has the name."""
        bucket = self._bucket
        try:
            await bucket.api.put_async(bucket.store, name, data)
        except bucket.failures as error:
            raise BackendError(str(error)) from error

    async def create(self, name: str, data: bytes) -> bool:
        """Keep an object unless one has the name (``If-None-Match: *``); False then."""
        bucket = self._bucket
        try:
            await bucket.api.put_async(bucket.store, name, data, mode="create", use_multipart=False)
        except bucket.exists:
            return False
        except bucket.failures as error:
            raise BackendError(str(error)) from error
        return True

    async def read(self, name: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Return an object or a part of it; None if there is no such object."""
        bucket = self._bucket
        try:
            if length is None:
                found = await bucket.api.get_async(bucket.store, name)
                return bytes(await found.bytes_async())[start:]
            part = await bucket.api.get_range_async(bucket.store, name, start=start, length=length)
            return bytes(part)
        except FileNotFoundError:
            return None
        except bucket.failures as error:
            raise BackendError(str(error)) from error

    async def entries(self, folder: str) -> list[Entry]:
        """Return all objects of a folder and of those in it, in the order of their names."""
        bucket = self._bucket
        try:
            chunks = [c async for c in bucket.api.list(bucket.store, prefix=f"{folder}/")]
        except bucket.failures as error:
            raise BackendError(str(error)) from error
        return sorted(Entry(meta["path"], meta["size"]) for chunk in chunks for meta in chunk)

    async def remove(self, names: Sequence[str]) -> None:
        """Remove objects; those that are not there are ignored."""
        bucket = self._bucket
        try:
            await bucket.api.delete_async(bucket.store, list(names))
        except FileNotFoundError:
            return
        except bucket.failures as error:
            raise BackendError(str(error)) from error

    async def close(self) -> None:
        """Leave the connections to the library."""
