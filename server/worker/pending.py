"""Work that a device has been given and need not have done yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """Work under way, of which something comes."""

    @property
    def done(self) -> bool:
        """Whether :meth:`wait` returns at once."""
        ...

    def wait(self) -> T_co:
        """Wait for what comes of it.

        Raises:
            Exception: the work failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """Work that was done when it was given, as on a CPU."""

    result: T
    done: bool = True

    def wait(self) -> T:
        return self.result


class UnderWay:
    """Work that a device has been given, in the order in which it does it.

    Args:
        clock: seconds, monotonic.

    Attributes:
        given: pieces of work, ever.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pieces: deque[tuple[Pending[object], Callable[[], None]]] = deque()
        self._settled_at = float("-inf")
        self.given = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def begin(self, work: Pending[object], settle: Callable[[], None]) -> None:
        """Note work that the device has been given; what is done already is settled at once, in order.

        Args:
            work: itself.
            settle: waits for it, and does what is due then.
        """
        self._pieces.append((work, settle))
        self.given += 1
        while self._pieces and self._pieces[0][0].done:
            self._settle_first()

    def settle_all_but(self, count: int) -> None:
        """Wait until no more than the last ``count`` pieces are under way."""
        while len(self._pieces) > count:
            self._settle_first()

    def seconds_since(self, started: float) -> float:
        """Seconds that work took which was given at ``started`` and is done now: what came before it not counted."""
        now = self._clock()
        seconds = now - max(started, self._settled_at)
        self._settled_at = now
        return seconds

    def _settle_first(self) -> None:
        _, settle = self._pieces.popleft()
        settle()
