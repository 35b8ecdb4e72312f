"""Files through which a test stops a worker at a point of its work, and makes that work fail."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Point = Literal["load", "encode", "paint", "stream", "decode"]
"""Where a worker can be stopped: while it loads, encodes a prompt, paints a middle scale, paints the last one, and
decodes a finished image."""


@dataclass(frozen=True)
class Control:
    """A directory that a test and a worker share.

    Args:
        directory: must exist.
    """

    directory: Path

    def hold(self, point: Point) -> None:
        """Let whoever comes to the point wait there."""
        self._arrived(point).unlink(missing_ok=True)
        self._held(point).touch()

    def release(self, point: Point) -> None:
        """Let it go on."""
        self._held(point).unlink(missing_ok=True)

    def release_all(self) -> None:
        """Remove every hold and every failure."""
        for file in self.directory.iterdir():
            file.unlink(missing_ok=True)

    def fail(self, point: Point) -> None:
        """Let memory run out once at the point."""
        self._failing(point).touch()

    def arrived(self, point: Point) -> bool:
        """Whether a worker has come to the point since it was held."""
        return self._arrived(point).exists()

    def reach(self, point: Point) -> None:
        """Come to the point; called in the worker.

        Raises:
            MemoryError: the test wants it so.
        """
        if self._held(point).exists():
            self._arrived(point).touch()
            while self._held(point).exists():
                time.sleep(0.01)
        if self._failing(point).exists():
            self._failing(point).unlink()
            raise MemoryError

    def _held(self, point: Point) -> Path:
        return self.directory / f"hold.{point}"

    def _arrived(self, point: Point) -> Path:
        return self.directory / f"at.{point}"

    def _failing(self, point: Point) -> Path:
        return self.directory / f"fail.{point}"
