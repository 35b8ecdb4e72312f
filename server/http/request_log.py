"""The record of each request: its id, its line in the log, its count in the metrics."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api_keys import ApiKey
from server.errors import (
    ClientClosed,
    InvalidApiKey,
    InvalidRequest,
    ModerationBlocked,
    Outcome,
    ServerError,
    TooManyRequests,
)
from server.http.route_path import route_path
from server.messages import INTERACTIVE
from server.metrics import Metrics
from server.validation import shorten

if TYPE_CHECKING:
    from server.tracing.request_trace import RequestTrace
    from server.tracing.tracing import Tracing

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_PROBES = frozenset({"/livez", "/readyz", "/startupz", "/health", "/metrics"})
"""Paths that are polled every few seconds; they are logged at debug."""

_PARTS_OF_PAGES = ("/static/", "/docs/parts/")
"""Prefixes of files that each visit loads several of; they are logged at debug too."""

_OTHER = "other"
"""Name of the endpoint in metrics when no route matches."""

_GIVEN = re.compile(r'got "(?:[^"\\]|\\.)*"')
"""A text of the caller's in a message; it may be part of a prompt."""

_WITH_REASON = (InvalidRequest.status, InvalidApiKey.status, TooManyRequests.status)
_LONGEST_REASON = 300
_LONGEST_PATH = 200

_SECRET_PLACE = "/v1/images/files/"
"""What comes after this in a path is a secret, which must not be logged, whatever the answer is."""
_SECRET_NAME = re.compile(r"(?<=/)[A-Za-z0-9_-]{32}\.\w+")
"""The name of a stored image; one that is asked for at another path, such as a proxy's mistake makes, is as secret."""


@dataclass
class RequestRecord:
    """Collected while a request is served.

    Args:
        request_id: taken from ``x-request-id`` or made.
        method: of the request; a HEAD is routed as a GET.
        outcome: for ``star_requests_total``.
        code: of the error, if one was answered.
        api_key: the key that came with it, if keys are asked for.
        tenant: whose request it is; empty without keys.
        priority: class of the jobs that are made of it.
        param: field of the request that the error is about.
        reason: of an error that the caller can do something about (400, 401, 429), without the values that were sent.
        details: further fields of the log line.
        trace: of the request, if the server records traces.
    """

    request_id: str
    method: str = "GET"
    outcome: Outcome = "ok"
    code: str | None = None
    api_key: ApiKey | None = None
    tenant: str = ""
    priority: int = INTERACTIVE
    param: str | None = None
    reason: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    trace: RequestTrace | None = None

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time what is done for the request, in its trace if it has one."""
        return nullcontext() if self.trace is None else self.trace.stage(name)

    def use_key(self, key: ApiKey) -> None:
        """Record the key that the request came with, and what follows from it."""
        self.api_key, self.tenant, self.priority = key, key.name, key.priority

    def fail(self, error: ServerError) -> None:
        """Record that the answer is this error."""
        self.outcome, self.code, self.param = error.outcome, error.code, error.param
        if error.status in _WITH_REASON and not isinstance(error, ModerationBlocked):
            self.reason = shorten(_GIVEN.sub("got a string", error.message), _LONGEST_REASON)


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
    """Outermost middleware: request ids, HEAD, the log line and the metrics of each request.

    HEAD is answered like GET, without the body, on every path that has GET.

    Args:
        app: the next ASGI app.
        metrics: where requests are counted.
        log_client_address: log the address of the caller.
        tracing: begins the trace of each request but probes and parts of pages; None records none.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        log_client_address: bool = False,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._log_client_address = log_client_address
        self._log = structlog.get_logger("star.request")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        given = Headers(scope=scope).get("x-request-id", "")
        record = RequestRecord(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)
        record.method = scope["method"]
        scope.setdefault("state", {})["record"] = record
        if self._tracing is None or _is_quiet(route_path(scope)):
            await self._serve(scope, receive, send, record, started)
            return
        record.trace = self._tracing.begin(record.method, Headers(scope=scope))
        with record.trace.bound():
            await self._serve(scope, receive, send, record, started)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, record: RequestRecord, started: float
    ) -> None:
        status, trace = 0, record.trace

        async def marked_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["x-request-id"] = record.request_id
                answer.setdefault("x-content-type-options", "nosniff")
                answer["x-total-time"] = f"{time.monotonic() - started:.4f}"
                if trace is not None:
                    answer["traceparent"] = trace.traceparent
                    trace.send()
            elif record.method == "HEAD" and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)
            if trace is not None and message["type"] == "http.response.body":
                trace.wrote(len(message.get("body", b"")), last=not message.get("more_body"))

        if record.method == "HEAD":
            scope["method"] = "GET"  # in place: the routes write what they match into this dict
        try:
            await self._app(scope, receive, marked_send)
        finally:
            self._conclude(scope, record, status, time.monotonic() - started)

    def _conclude(self, scope: Scope, record: RequestRecord, status: int, seconds: float) -> None:
        path = route_path(scope)
        endpoint = endpoint_name(scope["route"]) if "route" in scope else _OTHER
        if not status:
            record.fail(ClientClosed("The client disconnected."))
            status = ClientClosed.status
        self._metrics.requests.labels(endpoint, record.outcome).inc()
        exemplar = record.trace.exemplar if record.trace is not None else None
        self._metrics.request_duration.labels(endpoint).observe(seconds, exemplar)
        if record.api_key is not None:
            self._metrics.count_key_request(record.api_key.name, record.outcome)
        if record.trace is not None:
            record.trace.end(**_span_of(scope, record, status))
        quiet = _is_quiet(path) or record.method == "OPTIONS"
        log = self._log.debug if quiet else self._log.info
        log(
            "request",
            request_id=record.request_id,
            method=record.method,
            path=shorten(_without_secret(path), _LONGEST_PATH),
            status=status,
            outcome=record.outcome,
            duration_s=round(seconds, 4),
            **self._optional(scope, record),
            **record.details,
        )

    def _optional(self, scope: Scope, record: RequestRecord) -> dict[str, Any]:
        """Return the fields that only some lines have."""
        client = scope.get("client") if self._log_client_address else None
        fields = {
            "client": client[0] if client else None,
            "code": record.code,
            "param": record.param,
            "reason": record.reason,
            "api_key": record.api_key.name if record.api_key is not None else None,
        }
        return {name: value for name, value in fields.items() if value is not None}


def _is_quiet(path: str) -> bool:
    """Tell whether a path is one of those that are asked for so often that each time says nothing."""
    return path in _PROBES or path.startswith(_PARTS_OF_PAGES)


def _span_of(scope: Scope, record: RequestRecord, status: int) -> dict[str, Any]:
    """Return route, attributes and failure of a request's span, by OpenTelemetry's conventions for HTTP."""
    attributes: dict[str, Any] = {
        "url.scheme": scope.get("scheme", "http"),
        "url.path": shorten(_without_secret(scope["path"]), _LONGEST_PATH),
        "network.protocol.version": scope.get("http_version", ""),
        "http.response.header.x-request-id": [record.request_id],
        "star.outcome": record.outcome,
    }
    if status != ClientClosed.status:  # which no client sees: it has left
        attributes["http.response.status_code"] = status
    if record.code is not None:
        attributes["error.type"] = record.code
    failed = status >= 500 or record.outcome in ("deadline", "oom", "error")
    return {
        "route": scope["route"].path if "route" in scope else None,
        "attributes": attributes,
        "failure": (record.code or str(status)) if failed else None,
    }


def _without_secret(path: str) -> str:
    """Return a path as it may be logged."""
    before, place, _ = path.partition(_SECRET_PLACE)
    return f"{before}{place}{{name}}" if place else _SECRET_NAME.sub("{name}", path)
