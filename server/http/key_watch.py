"""The keys of a running server: read again when their file changes, without a restart.

A file that cannot be used changes nothing: the keys that were read before stay valid, a line in the log says what is
wrong with it, and ``star_key_file_reads_total`` counts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import structlog

from server.api_keys import KeyRing, read_keys
from server.metrics import Metrics
from server.settings import Settings
from server.settings_file import SettingsFileError

_LOOK_SECONDS = 1.0


class ServerKeys:
    """The keys of a server, and their file.

    Args:
        settings: name keys and file.
        metrics: where keys and readings are counted.
        look_s: seconds between looks at the file.

    Raises:
        SettingsFileError: the file cannot be used.

    Attributes:
        ring: the keys that are valid now.
    """

    def __init__(self, settings: Settings, metrics: Metrics, look_s: float = _LOOK_SECONDS) -> None:
        self._settings = settings
        self._metrics = metrics
        self._look_s = look_s
        self._stamp = _stamp(settings.api_key_file)  # before it is read: no change is missed
        self._watching: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("star.keys")
        self.ring = read_keys(settings)
        metrics.watch("api_keys", lambda: len(self.ring))

    def start(self) -> None:
        """Start to look at the file."""
        if self.ring:
            self._watching = asyncio.create_task(self._watch(), name="watch-keys")

    async def close(self) -> None:
        """Stop looking."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """Read the keys of new settings; return what puts them into force.

        Raises:
            SettingsFileError: they cannot be used, or the server would need keys that it did not need, or the reverse.
        """
        stamp = _stamp(settings.api_key_file)
        ring = self._read(settings)

        def put_into_force() -> None:
            self._settings, self._stamp = settings, stamp
            if ring:
                self._replace(ring)

        return put_into_force

    def _read(self, settings: Settings) -> KeyRing:
        ring = read_keys(settings)
        if bool(ring) != bool(self.ring):
            raise SettingsFileError(
                "Whether a server needs keys at all is settled when it starts; restart it to change that."
            )
        return ring

    def _replace(self, ring: KeyRing) -> None:
        self.ring = ring
        self._metrics.key_file_reads.labels("ok").inc()
        self._log.info("keys read", keys=len(ring))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            path = self._settings.api_key_file
            stamp = await asyncio.to_thread(_stamp, path)
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                self._replace(await asyncio.to_thread(self._read, self._settings))
            except SettingsFileError as error:
                self._metrics.key_file_reads.labels("failed").inc()
                self._log.error("keys not read, those before stay valid", reason=str(error))


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """Return what changes with a file; None without one. Links are followed: Kubernetes replaces a link."""
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
