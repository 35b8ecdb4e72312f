"""Objects by name: what keeps the files of batches, their states and their results."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar

import structlog

from server.batches.errors import BatchStoreFailed
from server.images.stores.store import BackendError

T = TypeVar("T")

BatchOperation = Literal["write", "read", "list", "remove"]
"""What the store of batches was asked for when it failed."""

_SECONDS = 30.0
_RETRY_SECONDS = 10


class Entry(NamedTuple):
    """An object in a listing.

    Attributes:
        name: of the object, from the root on.
        size: in bytes.
    """

    name: str
    size: int


class Objects(Protocol):
    """Keeps objects by name; a name is a path of segments with ``/`` between them.

    Every method may raise :class:`BackendError`, and none blocks the event loop.
    """

    async def write(self, name: str, data: bytes) -> None:
        """Keep an object in place of any that has the name: whoever reads finds all of one or of the other."""
        ...

    async def create(self, name: str, data: bytes) -> bool:
        """Keep an object unless one has the name; False then. Of several callers at once, one succeeds."""
        ...

    async def read(self, name: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Return ``length`` bytes of an object from ``start`` on, all if not given; None if there is no such object."""
        ...

    async def entries(self, folder: str) -> list[Entry]:
        """Return all objects whose names begin with ``folder/``, in the order of their names."""
        ...

    async def remove(self, names: Sequence[str]) -> None:
        """Remove objects; those that are not there are ignored."""
        ...

    async def close(self) -> None:
        """Release what is held."""
        ...


class GuardedObjects:
    """Objects of a backend, with failures that are told: logged, counted, and answered with one error.

    Args:
        backend: keeps the objects.
        failed: called with each operation that failed.
        seconds: how long the backend may take for one operation.
    """

    def __init__(
        self,
        backend: Objects,
        failed: Callable[[BatchOperation], None] = lambda _: None,
        seconds: float = _SECONDS,
    ) -> None:
        self._backend = backend
        self._failed = failed
        self._seconds = seconds
        self._log = structlog.get_logger("star.batches")

    async def write(self, name: str, data: bytes) -> None:
        """Keep an object; raises :class:`BatchStoreFailed`, like all methods."""
        await self._attempt("write", self._backend.write(name, data))

    async def create(self, name: str, data: bytes) -> bool:
        """Keep an object unless one has the name; False then."""
        return await self._attempt("write", self._backend.create(name, data))

    async def read(self, name: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Return an object or a part of it; None if there is no such object."""
        return await self._attempt("read", self._backend.read(name, start, length))

    async def entries(self, folder: str) -> list[Entry]:
        """Return all objects of a folder and of those in it, in the order of their names."""
        return await self._attempt("list", self._backend.entries(folder))

    async def remove(self, names: Sequence[str]) -> None:
        """Remove objects; those that are not there are ignored."""
        if names:
            await self._attempt("remove", self._backend.remove(names))

    async def close(self) -> None:
        """Release what the backend holds."""
        await self._backend.close()

    async def _attempt(self, operation: BatchOperation, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._seconds):
                return await work
        except TimeoutError:
            reason = f"no answer within {self._seconds:g} s"
        except BackendError as error:
            reason = str(error)
        self._failed(operation)
        self._log.error("batch store failed", operation=operation, reason=reason)
        raise BatchStoreFailed(
            "The server cannot reach its store of files and batches at the moment; try again later.",
            retry_after=_RETRY_SECONDS,
        )
