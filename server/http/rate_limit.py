"""Limits per caller and minute, of requests and of images.

The generic cell rate algorithm: after a pause a caller may use a whole minute's allowance at once, which is then
refilled evenly.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send
from throttled import MemoryStore, RateLimiterType, Throttled, per_min

from server.errors import InvalidRequest, RateLimitExceeded, error_response
from server.http.request_log import RequestRecord
from server.metrics import Metrics

_CALLERS = 100_000
"""Callers that are remembered; beyond that, the least recent are forgotten."""


def network_of(address: str) -> str:
    """Return the caller that an address stands for: itself or, for IPv6, its /64 network, which is one subscriber's."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return address


def caller_of(scope: Scope) -> str:
    """Return whose limits a request counts against: the key's number, or without keys the network address."""
    record: RequestRecord = scope["state"]["record"]
    if record.api_key is not None:
        return f"key {record.api_key}"
    client = scope.get("client")
    return network_of(client[0]) if client is not None else "unknown"


@dataclass(frozen=True)
class _Limit:
    noun: str
    per_minute: int
    throttle: Throttled


class RateLimits:
    """The limits of one server, and the allowance that each caller has left.

    Args:
        requests_per_minute: 0 is no limit.
        images_per_minute: 0 is no limit.
    """

    def __init__(self, requests_per_minute: int = 0, images_per_minute: int = 0) -> None:
        self._requests = _limit("requests", requests_per_minute)
        self._images = _limit("images", images_per_minute)

    def change(self, requests_per_minute: int, images_per_minute: int) -> None:
        """Set new limits; where one is new, all callers begin with a whole minute's allowance."""
        if requests_per_minute != _per_minute(self._requests):
            self._requests = _limit("requests", requests_per_minute)
        if images_per_minute != _per_minute(self._images):
            self._images = _limit("images", images_per_minute)

    def check(self, caller: str, images: int) -> None:
        """Refuse a request that exceeds the caller's allowance; nothing is counted yet.

        Raises:
            InvalidRequest: it asks for more images than the limit per minute, so it could never be served.
            RateLimitExceeded: ``retry_after`` says when the allowance suffices.
        """
        if self._images is not None and images > self._images.per_minute:
            raise InvalidRequest(
                f"n must be at most {self._images.per_minute}, the number of images that this server allows a "
                f"caller per minute; got {images}.",
                param="n",
            )
        for limit, cost in self._costs(images):
            if limit.throttle.peek(caller).remaining < cost:
                # A request that is refused costs nothing, so this only computes the wait.
                wait = max(math.ceil(limit.throttle.limit(caller, cost).state.retry_after), 1)
                raise RateLimitExceeded(
                    f"The limit of {limit.per_minute} {limit.noun} per minute is reached. Try again in {wait} s.",
                    retry_after=wait,
                )

    def spend(self, caller: str, images: int) -> None:
        """Count a request that has been admitted."""
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


def _per_minute(limit: _Limit | None) -> int:
    return limit.per_minute if limit is not None else 0


class RateLimitCheck:
    """Middleware that answers 429 to a caller who has nothing left, before the body is read.

    Nothing is spent here: only the body says for how many images a request asks.

    Args:
        app: the next ASGI app.
        limits: of the server.
        metrics: where refusals are counted.
    """

    def __init__(self, app: ASGIApp, limits: RateLimits, metrics: Metrics) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            try:
                self._limits.check(caller_of(scope), images=1)
            except RateLimitExceeded as error:
                scope["state"]["record"].fail(error)
                self._metrics.reject(error)
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
