"""The memory and disk space that all request bodies under way may take up together."""

from __future__ import annotations

from server.errors import Overloaded, TooManyUploads

_RETRY_S = 5


class BodyBudget:
    """Counts the bytes of all request bodies, from their arrival to the end of their requests.

    One caller may hold half of them, or one body of the largest size if that is more.

    Args:
        max_bytes: of all bodies.
        largest: bytes of one body at most.
    """

    def __init__(self, max_bytes: int, largest: int) -> None:
        self._max_bytes = max_bytes
        self._share = max(max_bytes // 2, largest)
        self._held: dict[str, int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        """Bytes held by all."""
        return self._total

    def check(self, caller: str, count: int) -> None:
        """Refuse bytes that there is no room for; nothing is counted.

        Args:
            caller: whoever sends them.
            count: bytes to come.

        Raises:
            TooManyUploads: the caller would hold more than its share.
            Overloaded: all callers together would hold more than ``max_bytes``.
        """
        if self._held.get(caller, 0) + count > self._share:
            raise TooManyUploads(
                "Your requests under way hold as many bytes as one caller may; send fewer at once.",
                retry_after=_RETRY_S,
            )
        if self._total + count > self._max_bytes:
            raise Overloaded(
                "The requests under way hold as many bytes as the server has room for; try again soon.",
                retry_after=_RETRY_S,
            )

    def take(self, caller: str, count: int) -> None:
        """Count bytes that have arrived; raises like :meth:`check`, and then counts nothing."""
        self.check(caller, count)
        self._held[caller] = self._held.get(caller, 0) + count
        self._total += count

    def give_back(self, caller: str, count: int) -> None:
        """Count bytes of requests that are over."""
        left = self._held.get(caller, 0) - count
        if left > 0:
            self._held[caller] = left
        else:
            self._held.pop(caller, None)
        self._total -= count
