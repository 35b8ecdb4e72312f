"""Files kept in a directory, which several server processes may share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from server.images.stores.store import BackendError, is_image_name
from server.settings_file import SettingsFileError

T = TypeVar("T")

_THREADS = 4
_MODE = 0o640
_UNFINISHED = ".part-"
"""How the name of a file begins that is not written to its end."""
_UNFINISHED_SECONDS = 600.0
"""Age of an unfinished file whose writer must have died."""
_SHARE = 8
"""A process sweeps when it has written this part of the bounds since its last sweep."""


class DirectoryBackend:
    """Keeps files in a directory: written atomically, expired by their modification time.

    Several processes may use one directory and sweep it at the same time. When it holds more than it may, the oldest
    files are removed. Each process looks after it has written an eighth of what is allowed, so the bounds can be
    exceeded by an eighth for each process, for a moment.

    Args:
        directory: made if it does not exist; other files in it are left alone.
        max_files: at most so many.
        max_bytes: at most so many of all files together.
        seconds: how long each is kept.
        clock: seconds since the epoch, the same for all processes.

    Raises:
        SettingsFileError: the directory cannot be made or written to.
    """

    def __init__(
        self,
        directory: Path,
        max_files: int,
        max_bytes: int,
        seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._clock = clock
        self._new_files = 0
        self._new_bytes = 0
        try_out("image_store", directory, clock())
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="image-store")

    async def write(self, name: str, data: bytes) -> None:
        """Keep a file: whoever reads finds all of it or nothing."""
        await self._run(lambda: self._write(name, data))
        self._new_files += 1
        self._new_bytes += len(data)
        if self._new_files * _SHARE > self._max_files or self._new_bytes * _SHARE > self._max_bytes:
            with contextlib.suppress(
                BackendError
            ):  # the file is kept; the store's next sweep tells
                await self.sweep()

    async def read(self, name: str) -> bytes | None:
        """Return a file, or None if there is none or its time is over."""
        return await self._run(lambda: self._read(name))

    async def sweep(self) -> None:
        """Remove expired files, then the oldest of those that are too many."""
        self._new_files = self._new_bytes = 0
        await self._run(self._sweep)

    async def close(self) -> None:
        """End the threads; one that waits for a dead network volume is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        """Run blocking work in a thread: a network volume may hang."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except OSError as error:
            raise BackendError(f"{self._directory}: {error.strerror or error}") from error

    def _write(self, name: str, data: bytes) -> None:
        part = write_part(self._directory, data, self._clock())
        part.replace(self._directory / name)

    def _read(self, name: str) -> bytes | None:
        try:
            descriptor = os.open(self._directory / name, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:
            if os.fstat(descriptor).st_mtime + self._seconds <= self._clock():
                return None
            return file.read()

    def _sweep(self) -> None:
        now = self._clock()
        kept: list[tuple[float, str, int]] = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                unfinished = entry.name.startswith(_UNFINISHED)
                if not (unfinished or is_image_name(entry.name)):
                    continue
                try:
                    stat = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # another process was faster
                    continue
                seconds = _UNFINISHED_SECONDS if unfinished else self._seconds
                if stat.st_mtime + seconds <= now:
                    self._remove(entry.name)
                elif not unfinished:
                    kept.append((stat.st_mtime, entry.name, stat.st_size))
        total = 0
        for count, (_, name, size) in enumerate(sorted(kept, reverse=True), 1):
            total += size
            if count > self._max_files or total > self._max_bytes:
                self._remove(name)

    def _remove(self, name: str) -> None:
        (self._directory / name).unlink(missing_ok=True)


def try_out(setting: str, directory: Path, now: float) -> None:
    """Make a directory, and write and remove a file in it, so that a wrong setting is found at the start.

    Raises:
        SettingsFileError: one of these fails.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_part(directory, b"", now).unlink()
    except OSError as error:
        raise SettingsFileError(
            f"{setting}: nothing can be written to {directory}: "
            f"{(error.strerror or str(error)).lower()}."
        ) from error


def write_part(directory: Path, data: bytes, now: float) -> Path:
    """Write an unfinished file to the disk, and return its path; renamed, it is there at once.

    Args:
        directory: on the same volume as the file that it will be.
        data: of the file.
        now: time of its modification, by this machine's clock; that of a file server may differ.
    """
    part = directory / f"{_UNFINISHED}{secrets.token_hex(16)}"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.utime(part, (now, now))
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return part
