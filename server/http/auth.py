"""API keys: which requests need one, and the check that they have it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api_keys import ApiKey
from server.errors import InvalidApiKey, error_response
from server.http.key_watch import ServerKeys
from server.http.request_log import RequestRecord
from server.http.route_path import route_path
from server.metrics import Metrics

_OPEN = re.compile(
    r"/(livez|readyz|startupz|health|metrics|openapi\.json|docs(/.*)?|static/.*|v1/images/files/[^/]+)?"
)
"""Paths that can be read without a key: probes, metrics, the pages and their parts, and images under secret names."""


def needs_key(method: str, path: str) -> bool:
    """Tell whether a request needs a key when the server has keys."""
    return method not in ("GET", "HEAD") or not _OPEN.fullmatch(path)


def given_key(headers: Headers) -> str:
    """Return the key of a request, or "": a bearer token, or what Azure's clients send as ``api-key``."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("api-key", "").strip()


def _utc_now() -> datetime:
    return datetime.now(UTC)


class ApiKeyCheck:
    """Middleware that answers 401 to requests without a valid key, before their body is read.

    Args:
        app: the next ASGI app.
        keys: valid at the moment of each request.
        metrics: where refusals are counted.
        now: returns the time, with its zone.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: ServerKeys,
        metrics: Metrics,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and needs_key(scope["method"], route_path(scope)):
            record: RequestRecord = scope["state"]["record"]
            try:
                record.use_key(self._find(given_key(Headers(scope=scope))))
            except InvalidApiKey as error:
                record.fail(error)
                self._metrics.reject(error)
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _find(self, given: str) -> ApiKey:
        if not given:
            raise InvalidApiKey(
                "This server needs an API key; send it as Authorization: Bearer <key>."
            )
        key = self._keys.ring.find(given)
        if key is None:
            raise InvalidApiKey("The API key is not one of this server's.")
        if key.expired(self._now()):
            raise InvalidApiKey(f"The API key {key.name} expired on {key.expires:%Y-%m-%d}.")
        return key
