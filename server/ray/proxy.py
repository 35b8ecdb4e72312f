"""Middleware of Ray Serve's HTTP proxy: errors outside the replicas get the error envelope too.

When a replica dies, Ray's proxy closes its requests without an answer, and Ray's own refusals are plain text. Neither
passes through the app. Set the callback on every node before it joins:
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=server.ray.proxy:middleware ray start ...``
"""

from __future__ import annotations

import json

from fastapi.sse import format_sse_event
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import (
    DeadlineExceeded,
    EngineDead,
    InternalError,
    QueueFull,
    ServerError,
    Unavailable,
    error_response,
)

_RAYS_OWN = "/-/"
"""Prefix of the paths that the proxy answers itself, in plain text that Ray's tools read."""
_RETRY_SECONDS = 5


def middleware() -> list[Middleware]:
    """Return the proxy's middleware; Ray calls this."""
    return [Middleware(ReplicaErrors)]


class ReplicaErrors:
    """Answers with the error envelope where no replica has answered.

    Args:
        app: Ray's proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_RAYS_OWN):
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        await self._app(scope, receive, answer.send)
        if answer.finished:
            return
        if (error := answer.refusal) is None:
            error = EngineDead(
                "The replica that worked on this request has died; try again.",
                retry_after=_RETRY_SECONDS,
            )
        if not answer.started:
            response = error_response(error)
            response.headers["x-request-id"] = Headers(scope=scope).get("x-request-id", "")
            await response(scope, receive, send)
        elif answer.is_stream:
            event = format_sse_event(data_str=json.dumps(error.envelope()))
            await send({"type": "http.response.body", "body": event})
        # Part of another kind of answer has been sent: the connection is closed, so the client sees it is cut off.


class _Answer:
    """Passes on what the proxy sends, except for Ray's own refusals, which it keeps.

    Attributes:
        started: a status has been passed on.
        finished: the last byte has been passed on.
        is_stream: the answer is server-sent events.
        refusal: the error for Ray's own refusal; None if there is none.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.finished = False
        self.is_stream = False
        self.refusal: ServerError | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            kind = headers.get("content-type", "")
            if message["status"] >= 400 and kind.startswith("text/plain"):
                self.refusal = _translate(message["status"])
            else:
                self.started = True
                self.is_stream = kind.startswith("text/event-stream")
                if (
                    "x-request-id" in headers
                ):  # set by the app; the proxy has added it a second time
                    headers["x-request-id"] = headers["x-request-id"]
        elif message["type"] == "http.response.body":
            self.finished = self.started and not message.get("more_body", False)
        if self.refusal is None:
            await self._send(message)


def _translate(status: int) -> ServerError:
    """Return our error for a status that Ray answered with."""
    match status:
        case 404 | 503:  # 404: no application is deployed; an unknown path is answered by the app
            return Unavailable("No replica is ready; try again soon.", retry_after=_RETRY_SECONDS)
        case 408:
            return DeadlineExceeded("The request took longer than Ray's request_timeout_s allows.")
        case 429:
            return QueueFull("All replicas are busy; try again soon.", retry_after=_RETRY_SECONDS)
        case _:
            return InternalError("Ray's proxy failed; its log says why.")
