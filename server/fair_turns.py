"""Fair turns between tenants: start-time fair queueing, pure.

Each image of a tenant gets a turn, one later than the tenant's image before it, and never earlier than the turn that is
served now. The lowest turn goes first. So tenants that have work share evenly, whatever each has queued; one that comes
back finds its next turn at once, and has saved up nothing while it was away.

Source: Goyal, Vin, Cheng, "Start-time Fair Queueing" (SIGCOMM 1996), with all images of the same length.
"""

from __future__ import annotations


class FairTurns:
    """The next turn of each tenant."""

    def __init__(self) -> None:
        self._now = 0
        self._next: dict[str, int] = {}  # of tenants whose next turn is later than now

    def next(self, tenant: str) -> int:
        """Return the turn that the tenant's next image will get."""
        return self._next.get(tenant, self._now)

    def take(self, tenant: str) -> int:
        """Give the tenant's next image its turn."""
        turn = self.next(tenant)
        self._next[tenant] = turn + 1
        return turn

    def serve(self, turn: int) -> None:
        """Note that an image with this turn is served: no later image gets an earlier one."""
        if turn > self._now:
            self._now = turn
            self._next = {tenant: at for tenant, at in self._next.items() if at > turn}
