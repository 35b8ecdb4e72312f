"""Middleware around everything that reads a body: its length, pace and total; errors that nobody handled."""

from __future__ import annotations

import asyncio
import re
import time

import structlog
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import (
    InternalError,
    RequestTimeout,
    RequestTooLarge,
    ServerError,
    TooManyRequests,
    Unavailable,
    error_response,
)
from server.http.body_budget import BodyBudget
from server.http.rate_limit import network_of
from server.http.request_log import RequestRecord
from server.http.route_path import route_path
from server.http.shortage import shortage_of
from server.metrics import Metrics

_WITH_IMAGES = re.compile(
    r"/generate|(/openai)?/v1/images/edits|/openai/deployments/[^/]+/images/edits"
)
"""Paths whose requests may hold images, and be that large."""

_FILES = "/v1/files"
"""The path that files are uploaded to."""

_SLOWEST = 1024
"""Bytes a second that a body must arrive with, on average over ``body_timeout_s``."""


_DIGITS = 18
"""Of a declared length that is a number at all."""


class BodyRefused(HTTPException):
    """A body that is not read on. FastAPI passes this kind of exception on while it reads a body.

    Args:
        error: the answer.
    """

    def __init__(self, error: ServerError) -> None:
        super().__init__(error.status, error.message)
        self.error = error


class RequestGuard:
    """Bounds what the body of a request may cost, and answers unhandled errors with the envelope.

    Args:
        app: the next ASGI app.
        metrics: where refusals are counted.
        budget: of all bodies.
        max_body_bytes: longest request body.
        max_upload_bytes: longest where it may hold images.
        max_file_bytes: longest where it is a file.
        body_timeout_s: seconds in which a body must make progress.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        budget: BodyBudget,
        max_body_bytes: int,
        max_upload_bytes: int,
        max_file_bytes: int,
        body_timeout_s: float,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._budget = budget
        self._max_body_bytes = max_body_bytes
        self._max_upload_bytes = max_upload_bytes
        self._max_file_bytes = max_file_bytes
        self._body_timeout_s = body_timeout_s
        self._log = structlog.get_logger("star.request")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record: RequestRecord = scope["state"]["record"]
        body = Body(
            receive,
            self._budget,
            caller=network_of(scope["client"][0]) if scope.get("client") else "unknown",
            max_bytes=self._longest(route_path(scope)),
            timeout_s=self._body_timeout_s,
        )
        started = False

        async def marked_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            body.check_length(Headers(scope=scope).get("content-length", "0"))
            await self._app(scope, body.receive, marked_send)
        except BodyRefused as refusal:  # before, or outside of, the routes that answer it
            record.fail(refusal.error)
            if not started:
                await error_response(refusal.error)(scope, receive, marked_send)
        except Exception as error:
            self._log.error("unhandled error", request_id=record.request_id, exc_info=error)
            failure = shortage_of(error) or InternalError(
                "The server failed to handle this request; its log says why."
            )
            record.fail(failure)
            if not started:
                await error_response(failure)(scope, receive, marked_send)
        finally:
            body.close()
            if isinstance(body.refusal, TooManyRequests | Unavailable):
                self._metrics.reject(body.refusal)

    def _longest(self, path: str) -> int:
        """Return the bytes that the body of a request for a path may have."""
        if path == _FILES:
            return self._max_file_bytes
        return self._max_upload_bytes if _WITH_IMAGES.fullmatch(path) else self._max_body_bytes


class Body:
    """The body of one request, received within bounds.

    Args:
        receive: ASGI's.
        budget: of all bodies.
        caller: whose share of the budget it takes up.
        max_bytes: longest body.
        timeout_s: seconds in which ``_SLOWEST * timeout_s`` bytes must arrive, or the rest of the body.

    Attributes:
        refusal: why it was not read to its end, if it was not.
    """

    def __init__(
        self, receive: Receive, budget: BodyBudget, caller: str, max_bytes: int, timeout_s: float
    ) -> None:
        self.refusal: ServerError | None = None
        self._receive = receive
        self._budget = budget
        self._caller = caller
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._bytes = 0
        self._more = True
        self._waited_s = 0.0
        self._lately = 0  # bytes within ``_waited_s``

    def check_length(self, declared: str) -> None:
        """Refuse a body by its declared length, before any of it is read.

        Raises:
            BodyRefused: it is too long, or there is no room for it now.
        """
        if not (declared.isascii() and declared.isdecimal()):
            return
        if len(declared) > _DIGITS or int(declared) > self._max_bytes:
            self._refuse(self._too_large())
        self._within_budget(int(declared), keep=False)

    async def receive(self) -> Message:
        """Receive the next message.

        Raises:
            BodyRefused: the body is too long or too slow, or there is no room for it now.
        """
        if not self._more:
            return await self._receive()
        message = await self._in_time()
        if message["type"] == "http.request":
            count = len(message.get("body", b""))
            self._more = message.get("more_body", False)
            if self._bytes + count > self._max_bytes:
                self._refuse(self._too_large())
            self._within_budget(count, keep=True)
            self._bytes += count
            self._lately += count
        return message

    def close(self) -> None:
        """Give back what the body holds; call it when the request is over."""
        self._budget.give_back(self._caller, self._bytes)
        self._bytes = 0

    async def _in_time(self) -> Message:
        """Await a message; only the time spent here counts, not that which the app takes in between."""
        while True:
            if self._waited_s >= self._timeout_s:
                if self._lately < _SLOWEST * self._timeout_s:
                    self._refuse(
                        RequestTimeout(
                            f"The request body came too slowly: {self._lately:,} bytes in "
                            f"{self._timeout_s:g} s."
                        )
                    )
                self._waited_s, self._lately = 0.0, 0
            began = time.monotonic()
            try:
                async with asyncio.timeout(self._timeout_s - self._waited_s):
                    return await self._receive()
            except TimeoutError:
                self._waited_s = self._timeout_s
            finally:
                self._waited_s += time.monotonic() - began

    def _within_budget(self, count: int, *, keep: bool) -> None:
        try:
            (self._budget.take if keep else self._budget.check)(self._caller, count)
        except ServerError as error:
            self._refuse(error)

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(
            f"The request body is longer than the {self._max_bytes:,} bytes allowed; shorten the text, shrink "
            "the image, or split the file."
        )

    def _refuse(self, error: ServerError) -> None:
        self.refusal = error
        raise BodyRefused(error)
