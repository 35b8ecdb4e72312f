"""Files kept in a bucket of S3, or of a service that speaks its protocol."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from server.images.stores.store import BackendError
from server.settings_file import SettingsFileError

_EXPIRES = "expires-at"
"""Metadata of an object: when its time is over, in seconds since the epoch."""
_CONNECT = timedelta(seconds=5)
_REQUEST = timedelta(seconds=20)
_ALL_RETRIES = timedelta(seconds=25)
_RETRIES = 3


@dataclass(frozen=True)
class Bucket:
    """A bucket, or a prefix in one, and the library that speaks to it.

    Args:
        api: the module ``obstore``.
        store: its handle of the bucket.
        failures: exceptions of the library that mean that the service failed.
        exists: the exception for an object that is there already.
    """

    api: Any
    store: Any
    failures: tuple[type[Exception], type[Exception]]
    exists: type[Exception]


def open_bucket(setting: str, url: str, endpoint: str | None) -> Bucket:
    """Return the bucket of an address such as ``s3://bucket/prefix``; nothing is sent yet.

    Args:
        setting: that names the address, for errors.
        url: of the bucket.
        endpoint: address of the service; AWS's own, or ``AWS_ENDPOINT_URL``, when None.

    Raises:
        SettingsFileError: the extra ``s3`` is not installed, or the configuration is not valid.
    """
    try:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError
        from obstore.store import S3Store
    except ImportError as error:
        raise SettingsFileError(
            f"{setting} {url} needs the extra s3: pip install 'star-server[s3]'."
        ) from error
    try:
        store = S3Store.from_url(
            url,
            config={"endpoint": endpoint} if endpoint is not None else {},
            client_options={
                "allow_http": endpoint is not None and endpoint.startswith("http:"),
                "connect_timeout": _CONNECT,
                "timeout": _REQUEST,
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": _ALL_RETRIES},
        )
    except (BaseError, ValueError) as error:
        raise SettingsFileError(f"{setting} {url} cannot be used: {error}.") from error
    return Bucket(obstore, store, (BaseError, OSError), AlreadyExistsError)


class S3Backend:
    """Keeps files as objects whose metadata says when they expire; a lifecycle rule of the bucket removes them.

    Credentials and region come from where AWS's tools look for them: ``AWS_ACCESS_KEY_ID``,
    ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, a web identity, the machine's role.

    Args:
        url: such as ``s3://bucket/prefix``.
        seconds: how long each file is kept.
        endpoint: address of the service; AWS's own, or ``AWS_ENDPOINT_URL``, when None.
        clock: seconds since the epoch, the same for all processes.

    Raises:
        SettingsFileError: the extra ``s3`` is not installed, or the configuration is not valid.
    """

    def __init__(
        self,
        url: str,
        seconds: float,
        endpoint: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._bucket = open_bucket("image_store", url, endpoint)

    async def write(self, name: str, data: bytes) -> None:
        """Keep a file."""
        expires = self._clock() + self._seconds
        try:
            await self._bucket.api.put_async(
                self._bucket.store,
                name,
                data,
                attributes={_EXPIRES: f"{expires:.0f}"},
                use_multipart=False,
            )
        except self._bucket.failures as error:
            raise BackendError(str(error)) from error

    async def read(self, name: str) -> bytes | None:
        """Return a file, or None if there is none or its time is over."""
        try:
            found = await self._bucket.api.get_async(self._bucket.store, name)
            if float(found.attributes.get(_EXPIRES, 0)) <= self._clock():
                return None
            return bytes(await found.bytes_async())
        except FileNotFoundError:
            return None
        except (*self._bucket.failures, ValueError) as error:
            raise BackendError(str(error)) from error

    async def sweep(self) -> None:
        """Leave it to the bucket's lifecycle rule."""

    async def close(self) -> None:
        """Leave the connections to the library."""
