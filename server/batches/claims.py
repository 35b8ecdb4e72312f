"""Which of several servers works at a batch: marks in the store that they share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.batches.objects import GuardedObjects

CLAIM = "claim-"
"""How the name of a claim begins, among the marks of a batch."""


@dataclass
class Unfinished:
    """The marks of an unfinished batch.

    Args:
        folder: of its owner.
        batch_id: of the batch.
        cancelled: its owner wants no more of it.
        claims: numbers of the servers' claims, the valid one last.
    """

    folder: str
    batch_id: str
    cancelled: bool = False
    claims: list[int] = field(default_factory=list)

    @property
    def place(self) -> str:
        """Name of its marks' folder."""
        return f"unfinished/{self.folder}/{self.batch_id}"


class Claim:
    """The right of one server to work at a batch: the highest of the numbered claims, kept fresh.

    Take it with :meth:`take`. A server that dies stops refreshing it, and another claims the next number.

    Args:
        objects: keep the claims.
        name: of the claim.
        server: name of the server.
        clock: seconds since the epoch, the same for all servers.
    """

    def __init__(
        self, objects: GuardedObjects, name: str, server: str, clock: Callable[[], float]
    ) -> None:
        self._objects = objects
        self._name = name
        self._server = server
        self._clock = clock

    @classmethod
    async def take(
        cls,
        objects: GuardedObjects,
        batch: Unfinished,
        server: str,
        seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> Claim | None:
        """Claim a batch.

        Args:
            objects: keep the claims.
            batch: to be worked at.
            server: name of the server, unlike all others.
            seconds: after which a claim that was not refreshed counts no more.
            clock: seconds since the epoch.

        Returns:
            the claim; None while another server has one, or if another was faster.
        """
        number = max(batch.claims, default=0)
        if number:
            held = await objects.read(f"{batch.place}/{CLAIM}{number:06d}")
            since = float(held.split()[1]) if held is not None and held.count(b" ") else 0.0
            if held is not None and since + seconds > clock():
                return None
        claim = cls(objects, f"{batch.place}/{CLAIM}{number + 1:06d}", server, clock)
        return claim if await objects.create(claim._name, claim._content()) else None

    async def refresh(self, batch: Unfinished) -> bool:
        """Keep the claim; False if another server has taken the batch over.

        Args:
            batch: as it is listed now.
        """
        newest = f"{batch.place}/{CLAIM}{max(batch.claims, default=0):06d}"
        held = await self._objects.read(self._name)
        if newest != self._name or held is None or held.split()[0].decode() != self._server:
            return False
        await self._objects.write(self._name, self._content())
        return True

    async def release(self) -> None:
        """Let another server go on with the batch at once."""
        await self._objects.remove([self._name])

    def _content(self) -> bytes:
        return f"{self._server} {self._clock():.3f}".encode()
