"""Progress of a download as sentences, for a log or a terminal, in place of the hub library's bars."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

REPORT_SECONDS = 10.0


def progress_of(what: str, say: Callable[[str], None]) -> type[tqdm[Any]]:
    """Return a class of progress bars that say now and then how much of a download is done.

    Args:
        what: is downloaded.
        say: receives the sentences.
    """

    class Sentences(tqdm):  # type: ignore[misc]
        """A bar that draws nothing."""

        _said_at = 0.0

        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)  # of the hub library's own bars
            self._said_at = time.monotonic()
            # With a file of its own it counts even where the library would not draw a bar.
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            now = time.monotonic()
            if self.unit == "B" and self.n and now - self._said_at >= REPORT_SECONDS:
                self._said_at = now
                of = f" of {self.total / 1e6:,.0f}" if self.total else ""
                say(f"fetching {what}: {self.n / 1e6:,.0f}{of} MB")
            return True

    return Sentences
