"""How much a caller may ask for in a minute: requests, and images.

The generic cell rate algorithm: after a pause a caller may spend a whole minute's worth at once, and from then on
gets it back evenly.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass

from throttled import MemoryStore, RateLimiterType, Throttled, per_min

from server.errors import InvalidRequest, RateLimitExceeded

_CALLERS = 100_000
"""Callers that are remembered; beyond, those that have been away the longest are forgotten."""


def network_of(address: str) -> str:
    """The caller that an address stands for: itself, or for IPv6 the /64 network, which is one subscriber's."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return address


@dataclass(frozen=True)
class _Limit:
    noun: str
    per_minute: int
    throttle: Throttled


class RateLimits:
    """The limits of one server, and what each caller has left.

    Args:
        requests_per_minute: 0 is no limit.
        images_per_minute: 0 is no limit.
    """

    def __init__(self, requests_per_minute: int = 0, images_per_minute: int = 0) -> None:
        self._requests = _limit("requests", requests_per_minute)
        self._images = _limit("images", images_per_minute)

    def check(self, caller: str, images: int) -> None:
        """Refuse a request that the caller has not enough left for; nothing is spent.

        Raises:
            InvalidRequest: it asks for more images than anybody ever gets in a minute.
            RateLimitExceeded: ``retry_after`` says when there is enough.
        """
        if self._images is not None and images > self._images.per_minute:
            raise InvalidRequest(
                f"n must be at most {self._images.per_minute}, the images that a caller of this server may "
                f"ask for in a minute; got {images}.",
                param="n",
            )
        for limit, cost in self._costs(images):
            if limit.throttle.peek(caller).remaining < cost:
                # Limited requests cost nothing, so this only asks when.
                wait = max(math.ceil(limit.throttle.limit(caller, cost).state.retry_after), 1)
                raise RateLimitExceeded(
                    f"The limit of {limit.per_minute} {limit.noun} a minute is used up. Try again in {wait} s.",
                    retry_after=wait,
                )

    def spend(self, caller: str, images: int) -> None:
        """Count a request that has been let in."""
        for limit, cost in self._costs(images):
            limit.throttle.limit(caller, cost)

    def _costs(self, images: int) -> list[tuple[_Limit, int]]:
        both = [(self._requests, 1), (self._images, images)]
        return [(limit, cost) for limit, cost in both if limit is not None]


def _limit(noun: str, per_minute: int) -> _Limit | None:
    if not per_minute:
        return None
    store = MemoryStore(options={"MAX_SIZE": _CALLERS})
    throttle = Throttled(using=RateLimiterType.GCRA.value, quota=per_min(per_minute), store=store)
    return _Limit(noun, per_minute, throttle)
