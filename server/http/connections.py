"""The open connections of a server: how many there may be, and which one is closed to make room."""

from __future__ import annotations

from typing import Protocol

from server.http.refusals import Refusals


class Connection(Protocol):
    """One connection, as far as it can be closed to make room."""

    def abort(self) -> None:
        """Close at once, without an answer."""


class Connections:
    """Counts connections, and knows which of them wait for their client.

    A connection waits for its client while it is idle, while a request has not arrived in full, and while an answer
    is not read. When there is no room for another, the one that has been silent for the longest is closed: silent
    sockets and slow readers, however many, keep nobody out. A connection whose request is being served is never
    closed for another as long as its client takes what there is of the answer.

    Args:
        limit: open connections at most.
        refusals: where closed ones are counted.
    """

    def __init__(self, limit: int, refusals: Refusals) -> None:
        self._limit = limit
        self._refusals = refusals
        self._open = 0
        # The longest silent first; a dict keeps the order, and deletes and inserts in constant time.
        self._waiting: dict[Connection, None] = {}
        self._evicted: set[Connection] = set()

    def __len__(self) -> int:
        return self._open

    def enter(self) -> bool:
        """Take a place for a new connection; false if there is none, even by closing another."""
        if self._open >= self._limit and not self.evict():
            return False
        self._open += 1
        return True

    def leave(self, connection: Connection | None = None) -> None:
        """Free the place of a connection that has ended, or of one that was never made."""
        if connection is not None:
            self._waiting.pop(connection, None)
            if connection in self._evicted:
                self._evicted.remove(connection)
                return
        self._open -= 1

    def waiting(self, connection: Connection) -> None:
        """Note that from now on a connection waits for its client."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = None

    def heard(self, connection: Connection) -> None:
        """Note that the client of a connection has sent something."""
        if connection in self._waiting:
            self.waiting(connection)

    def busy(self, connection: Connection) -> None:
        """Note that the client of a connection has sent a request in full, and waits for its answer."""
        self._waiting.pop(connection, None)

    def evict(self) -> bool:
        """Close the connection that has been silent for the longest; false if none waits for its client."""
        connection = next(iter(self._waiting), None)
        if connection is None:
            return False
        del self._waiting[connection]
        self._evicted.add(connection)
        self._open -= 1
        self._refusals.note("evicted")
        connection.abort()
        return True
