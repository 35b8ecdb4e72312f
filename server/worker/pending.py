"""Handles for asynchronous device work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """Work queued on a device, with a result."""

    @property
    def done(self) -> bool:
        """True once :meth:`wait` returns at once."""
        ...

    def wait(self) -> T_co:
        """Wait for the result.

        Raises:
            Exception: the work failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """Work that finished within the call that started it, as all work on a CPU does."""

    result: T
    done: bool = True

    def wait(self) -> T:
        return self.result


class InFlight:
    """Work queued on a device, in the order in which the device does it.

    Args:
        clock: seconds, monotonic.

    Attributes:
        started: number of pieces of work ever started.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pieces: deque[tuple[Pending[object], Callable[[], None]]] = deque()
        self._settled_at = float("-inf")
        self.started = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def begin(self, work: Pending[object], settle: Callable[[], None]) -> None:
        """Add work that has been queued; settle at once, in order, whatever is done already.

        Args:
            work: its handle.
            settle: waits for it and handles its result.
        """
        self._pieces.append((work, settle))
        self.started += 1
        while self._pieces and self._pieces[0][0].done:
            self._settle_first()

    def drain(self, keep: int) -> None:
        """Settle the oldest pieces until at most ``keep`` are in flight."""
        while len(self._pieces) > keep:
            self._settle_first()

    def seconds_since(self, started: float) -> float:
        """Return the seconds that work took which was queued at ``started`` and has just finished.

        Time that the device spent on earlier work is not counted.
        """
        now = self._clock()
        seconds = now - max(started, self._settled_at)
        self._settled_at = now
        return seconds

    def _settle_first(self) -> None:
        _, settle = self._pieces.popleft()
        settle()
