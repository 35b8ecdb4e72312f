"""Objects kept in a directory, which several server processes may share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from server.batches.objects import Entry
from server.images.stores.directory import try_out, write_part
from server.images.stores.store import BackendError

T = TypeVar("T")

_THREADS = 4
_ATTEMPTS = 20
"""Times that a file is written whose folder others remove meanwhile, as an empty one."""
_UNFINISHED_SECONDS = 600.0
"""Age of an unfinished file whose writer must have died."""
_MODE = 0o640


class DirectoryObjects:
    """Keeps each object in a file of its name, written atomically.

    Args:
        root: made if it does not exist.
        clock: seconds since the epoch.

    Raises:
        SettingsFileError: the directory cannot be made or written to.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._clock = clock
        self._parts = root / "unfinished-files"
        try_out("batch_store", self._parts, clock())
        self._remove_parts()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="batch-store")

    async def write(self, name: str, data: bytes) -> None:
        """Keep an object in place of any that has the name."""
        await self._run(lambda: self._write(name, data))

    async def create(self, name: str, data: bytes) -> bool:
        """Keep an object unless one has the name; False then."""
        return await self._run(lambda: self._create(name, data))

    async def read(self, name: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Return an object or a part of it; None if there is no such object."""
        return await self._run(lambda: self._read(name, start, length))

    async def entries(self, folder: str) -> list[Entry]:
        """Return all objects of a folder and of those in it, in the order of their names."""
        return await self._run(lambda: sorted(self._scan(folder)))

    async def remove(self, names: Sequence[str]) -> None:
        """Remove objects, and the folders that become empty."""
        await self._run(lambda: self._remove(names))

    async def close(self) -> None:
        """End the threads; one that waits for a dead network volume is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        """Run blocking work in a thread: a network volume may hang."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except OSError as error:
            raise BackendError(f"{self._root}: {error.strerror or error}") from error

    def _remove_parts(self) -> None:
        """Remove unfinished files of servers that have died."""
        for part in self._parts.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if part.stat().st_mtime + _UNFINISHED_SECONDS <= self._clock():
                    part.unlink()

    def _write(self, name: str, data: bytes) -> None:
        part, path = write_part(self._parts, data, self._clock()), self._root / name
        try:
            _in_folder(path, lambda: part.replace(path))
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def _create(self, name: str, data: bytes) -> bool:
        path = self._root / name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            descriptor = _in_folder(path, lambda: os.open(path, flags, _MODE))
        except FileExistsError:
            return False
        with open(descriptor, "wb") as file:
            file.write(data)
        return True

    def _read(self, name: str, start: int, length: int | None) -> bytes | None:
        try:
            descriptor = os.open(self._root / name, os.O_RDONLY | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with open(descriptor, "rb") as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def _scan(self, folder: str) -> list[Entry]:
        found: list[Entry] = []
        pending = [folder]
        while pending:
            here = pending.pop()
            with contextlib.suppress(FileNotFoundError), os.scandir(self._root / here) as entries:
                for entry in entries:
                    name = f"{here}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(name)
                        continue
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        found.append(Entry(name, entry.stat(follow_symlinks=False).st_size))
        return found

    def _remove(self, names: Sequence[str]) -> None:
        folders: set[Path] = set()
        for name in names:
            path = self._root / name
            path.unlink(missing_ok=True)
            folders.update(path.parents[: name.count("/")])
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def _in_folder(path: Path, work: Callable[[], T]) -> T:
    """Do work that needs the folder of a path, which is made."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return work()
        except (FileNotFoundError, FileExistsError):
            # The folder was removed while it was used, or between making it and looking what is in the way.
            if attempt == _ATTEMPTS or path.exists():
                raise
    raise AssertionError("unreachable")
