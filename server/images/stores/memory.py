"""Files kept in this process' memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from cachetools import TTLCache


class MemoryBackend:
    """Keeps the latest files; those that nobody has fetched for longest make room for new ones.

    Args:
        max_files: at most so many.
        max_bytes: at most so many of all files together.
        seconds: how long each is kept.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        max_files: int,
        max_bytes: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_files = max_files
        self._files: TTLCache[str, bytes] = TTLCache(max_bytes, seconds, timer=clock, getsizeof=len)

    async def write(self, name: str, data: bytes) -> None:
        """Keep a file.

        Raises:
            ValueError: it is larger than all files may be together.
        """
        with self._files.timer:  # one moment for all of it
            while len(self._files) >= self._max_files:
                self._files.popitem()
            self._files[name] = data

    async def read(self, name: str) -> bytes | None:
        """Return a file, unless its time is over or it had to make room."""
        return self._files.get(name)

    async def sweep(self) -> None:
        """Free the memory of expired files."""
        self._files.expire()

    async def close(self) -> None:
        """Free the memory of all files."""
        self._files.clear()
