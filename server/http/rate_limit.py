"""Limits per caller and minute, of requests and of images.

The generic cell rate algorithm: after a pause a caller may use a whole minute's allowance at once, which is then
refilled evenly.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from functools import lru_cache

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from throttled import MemoryStore, RateLimiterType, Throttled, per_min

from server.errors import InvalidRequest, RateLimitExceeded, error_response
from server.http.request_log import RequestRecord
from server.metrics import Metrics

_CALLERS = 100_000
"""Callers that are remembered; beyond that, the least recent are forgotten."""

_KEPT_LIMITS = 1024
"""Different limits of keys that are kept ready."""


def network_of(address: str) -> str:
    """Return the caller that an address stands for: itself or, for IPv6, its /64 network, which is one subscriber's."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return address


@dataclass(frozen=True)
class Caller:
    """Whose limits a request counts against.

    Args:
        name: of the key or, without keys, the network address.
        requests_per_minute, images_per_minute: of its key; None is the server's own limit, 0 is none.
        images_in_flight: images that its key may have waiting or painted at a time; None is no limit.
    """

    name: str
    requests_per_minute: int | None = None
    images_per_minute: int | None = None
    images_in_flight: int | None = None


def caller_of(scope: Scope) -> Caller:
    """Return whose limits a request counts against."""
    record: RequestRecord = scope["state"]["record"]
    if (key := record.api_key) is not None:
        return Caller(
            key.name, key.requests_per_minute, key.images_per_minute, key.images_in_flight
        )
    client = scope.get("client")
    return Caller(network_of(client[0]) if client is not None else "unknown")


@dataclass(frozen=True)
class _Limit:
    noun: str
    per_minute: int
    throttle: Throttled


class RateLimits:
    """The limits of one server, and the allowance that each caller has left.

    Args:
        requests_per_minute: of callers whose key has no limit of its own; 0 is no limit.
        images_per_minute: the same for images.
    """

    def __init__(self, requests_per_minute: int = 0, images_per_minute: int = 0) -> None:
        self._per_minute = {"requests": requests_per_minute, "images": images_per_minute}
        self._stores = {
            noun: MemoryStore(options={"MAX_SIZE": _CALLERS}) for noun in self._per_minute
        }
        # What a caller has used up is in the store: it stays so when a limit changes.
        self._limit = lru_cache(maxsize=_KEPT_LIMITS)(self._make_limit)

    def change(self, requests_per_minute: int, images_per_minute: int) -> None:
        """Set new limits of callers without limits of their own; what they have used up stays so."""
        self._per_minute = {"requests": requests_per_minute, "images": images_per_minute}

    def check(self, caller: Caller, images: int) -> None:
        """Refuse a request that exceeds the caller's allowance; nothing is counted yet.

        Raises:
            InvalidRequest: it asks for more images than the caller may ever ask for, so it could never be served.
            RateLimitExceeded: ``retry_after`` says when the allowance suffices.
        """
        _check_most(images, self._per_minute_of(caller)["images"], "per minute")
        _check_most(images, caller.images_in_flight or 0, "in flight")
        for limit, cost in self._costs(caller, images):
            if limit.throttle.peek(caller.name).remaining < cost:
                # A request that is refused costs nothing, so this only computes the wait.
                state = limit.throttle.limit(caller.name, cost).state
                wait = max(math.ceil(state.retry_after), 1)
                raise RateLimitExceeded(
                    f"The limit of {limit.per_minute} {limit.noun} per minute is reached. Try again in {wait} s.",
                    retry_after=wait,
                )

    def spend(self, caller: Caller, images: int) -> None:
        """Count a request that has been admitted."""
        for limit, cost in self._costs(caller, images):
            limit.throttle.limit(caller.name, cost)

    def headers(self, caller: Caller) -> dict[str, str]:
        """Return what the caller has left, in headers with the names and units of OpenAI's."""
        headers: dict[str, str] = {}
        for limit, _ in self._costs(caller, 0):
            state = limit.throttle.peek(caller.name)
            headers |= {
                f"x-ratelimit-limit-{limit.noun}": str(limit.per_minute),
                f"x-ratelimit-remaining-{limit.noun}": str(state.remaining),
                f"x-ratelimit-reset-{limit.noun}": f"{state.reset_after:.3f}s",
            }
        return headers

    def _per_minute_of(self, caller: Caller) -> dict[str, int]:
        own = {"requests": caller.requests_per_minute, "images": caller.images_per_minute}
        return {
            noun: general if (limit := own[noun]) is None else limit
            for noun, general in self._per_minute.items()
        }

    def _costs(self, caller: Caller, images: int) -> list[tuple[_Limit, int]]:
        costs = {"requests": 1, "images": images}
        return [
            (self._limit(noun, per_minute), costs[noun])
            for noun, per_minute in self._per_minute_of(caller).items()
            if per_minute
        ]

    def _make_limit(self, noun: str, per_minute: int) -> _Limit:
        kind, store = RateLimiterType.GCRA.value, self._stores[noun]
        return _Limit(
            noun, per_minute, Throttled(using=kind, quota=per_min(per_minute), store=store)
        )


def _check_most(images: int, most: int, when: str) -> None:
    """Refuse a request for more images than a limit ever allows; 0 is no limit.

    Raises:
        InvalidRequest: it asks for more.
    """
    if 0 < most < images:
        raise InvalidRequest(
            f"n must be at most {most}, the number of images that this server allows a caller {when}; got {images}.",
            param="n",
        )


class RateLimitCheck:
    """Middleware that answers 429 to a caller who has nothing left, before the body is read, and tells what is left.

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
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        caller = caller_of(scope)

        async def marked_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._limits.headers(caller))
            await send(message)

        try:
            self._limits.check(caller, images=1)
        except RateLimitExceeded as error:
            scope["state"]["record"].fail(error)
            self._metrics.reject(error)
            await error_response(error)(scope, receive, marked_send)
            return
        await self._app(scope, receive, marked_send)
