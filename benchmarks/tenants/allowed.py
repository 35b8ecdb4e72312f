"""What may be seen, and when."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator


class Allowed:
    """What may be seen at which time. While it changes, what was and what comes may both be.

    Args:
        first: from the start on.
    """

    def __init__(self, first: Iterable[str]) -> None:
        self._phases: list[tuple[float, frozenset[str]]] = [(-math.inf, frozenset(first))]

    @property
    def now(self) -> frozenset[str]:
        """What may be seen from now on."""
        return self._phases[-1][1]

    @contextlib.contextmanager
    def changing(self, to: Iterable[str]) -> Iterator[None]:
        """Change it while this is entered; if that fails, it stays undecided."""
        to = frozenset(to)
        self._phases.append((time.monotonic(), self.now | to))
        yield
        self._phases.append((time.monotonic(), to))

    def between(self, begin: float, end: float) -> frozenset[str]:
        """Return what may be seen at any moment between two times of the monotonic clock."""
        ends = [at for at, _ in self._phases[1:]] + [math.inf]
        return frozenset[str]().union(
            *(
                seen
                for (at, seen), until in zip(self._phases, ends, strict=True)
                if at <= end and until >= begin
            )
        )
