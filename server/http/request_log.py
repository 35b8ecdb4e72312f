"""The record of each request: its id, its line in the log, its count in the metrics."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import (
    ClientClosed,
    InternalError,
    Outcome,
    RequestTooLarge,
    ServerError,
    error_response,
)
from server.http.route_path import route_path
from server.metrics import Metrics

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_PROBES = frozenset({"/livez", "/readyz", "/startupz", "/health", "/metrics"})
"""Paths that are polled every few seconds; they are logged at debug."""

_PARTS_OF_PAGES = ("/static/", "/docs/parts/")
"""Prefixes of files that each visit loads several of; they are logged at debug too."""

_OTHER = "other"
"""Name of the endpoint in metrics when no route matches."""

_WITH_IMAGES = frozenset({"/generate", "/v1/images/edits"})
"""Paths whose requests may hold images, and be that large."""

_SECRET_ROUTE = "/v1/images/{name}/content"
"""The one route whose path is a secret, which must not be logged."""


@dataclass
class RequestRecord:
    """Collected while a request is served.

    Args:
        request_id: taken from ``x-request-id`` or made.
        outcome: for ``star_requests_total``.
        code: of the error, if one was answered.
        api_key: number of the key that came with it, if keys are asked for.
        details: further fields of the log line.
    """

    request_id: str
    outcome: Outcome = "ok"
    code: str | None = None
    api_key: int | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def fail(self, error: ServerError) -> None:
        """Record that the answer is this error."""
        self.outcome, self.code = error.outcome, error.code


def endpoint_name(route: Route) -> str:
    """Return the name of a route in metrics: its path. ``POST /`` is told apart from the page at the same path."""
    methods = route.methods or set()
    return f"POST {route.path}" if route.path == "/" and "POST" in methods else route.path


def endpoint_names(routers: Iterable[Router]) -> list[str]:
    """Return all names of endpoints in metrics, each once."""
    routes = [route for router in routers for route in router.routes if isinstance(route, Route)]
    return [*dict.fromkeys(map(endpoint_name, routes)), _OTHER]


def record_of(request: Request) -> RequestRecord:
    """Return the record that :class:`RequestLog` keeps of a request."""
    record: RequestRecord = request.scope["state"]["record"]
    return record


class RequestLog:
    """Outermost middleware: request ids, the limit on bodies, unhandled errors, the log line.

    It gives each request an id, refuses a body over the limit, answers an unhandled error with the envelope, and
    writes the log line.

    Args:
        app: the next ASGI app.
        metrics: where requests are counted.
        max_body_bytes: longest request body.
        max_upload_bytes: longest where it may hold images.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, max_body_bytes: int, max_upload_bytes: int
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._max_upload_bytes = max_upload_bytes
        self._log = structlog.get_logger("star.request")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        record = RequestRecord(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)
        scope.setdefault("state", {})["record"] = record
        status = 0
        body_bytes = 0
        max_bytes = (
            self._max_upload_bytes if route_path(scope) in _WITH_IMAGES else self._max_body_bytes
        )

        async def limited_receive() -> Message:
            nonlocal body_bytes
            message = await receive()
            if message["type"] == "http.request":
                body_bytes += len(message.get("body", b""))
                if body_bytes > max_bytes:
                    # The one kind of exception that FastAPI lets through while it reads a body.
                    raise HTTPException(RequestTooLarge.status, _too_large(max_bytes).message)
            return message

        async def marked_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["x-request-id"] = record.request_id
                answer["x-total-time"] = f"{time.monotonic() - started:.4f}"
            await send(message)

        try:
            await self._serve(scope, headers, max_bytes, limited_receive, marked_send)
        except Exception as error:
            self._log.error("unhandled error", request_id=record.request_id, exc_info=error)
            failure = InternalError("The server failed to handle this request; its log says why.")
            record.fail(failure)
            if not status:
                await error_response(failure)(scope, receive, marked_send)
        finally:
            self._conclude(scope, record, status, time.monotonic() - started)

    async def _serve(
        self, scope: Scope, headers: Headers, max_bytes: int, receive: Receive, send: Send
    ) -> None:
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > max_bytes:
            error = _too_large(max_bytes)
            scope["state"]["record"].fail(error)
            await error_response(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _conclude(self, scope: Scope, record: RequestRecord, status: int, seconds: float) -> None:
        path = route_path(scope)
        endpoint = endpoint_name(scope["route"]) if "route" in scope else _OTHER
        if not status:
            record.fail(ClientClosed("The client disconnected."))
            status = ClientClosed.status
        self._metrics.requests.labels(endpoint, record.outcome).inc()
        self._metrics.request_duration.labels(endpoint).observe(seconds)
        log = (
            self._log.debug
            if path in _PROBES or path.startswith(_PARTS_OF_PAGES)
            else self._log.info
        )
        log(
            "request",
            request_id=record.request_id,
            method=scope["method"],
            path=endpoint if endpoint == _SECRET_ROUTE else path,
            status=status,
            outcome=record.outcome,
            duration_s=round(seconds, 4),
            **({"code": record.code} if record.code else {}),
            **({"api_key": record.api_key} if record.api_key else {}),
            **record.details,
        )


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The request body is longer than the {max_bytes:,} bytes allowed; shorten the text, or shrink the image."
    )
