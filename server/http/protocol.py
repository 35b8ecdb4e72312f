"""HTTP/1.1 on one connection, within bounds: uvicorn's protocol on h11, with a limit on all that a client can hold.

Why h11, and what each bound is for: docs/adr/0006-h11-within-bounds.md. A connection is in one of these states:

    reading a header    ``header_timeout_s`` from its first byte, ``max_header_bytes``, 256 lines
    reading a body      paced and bounded by server.http.request_guard; its framing is checked here
    serving             the request has arrived; further bytes are kept for later, and an end is noticed at once
    idle                ``keep_alive_s``
    lingering           the answer was sent before the request had arrived: what still comes is dropped, for a while
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, HIGH_WATER_LIMIT
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from server.errors import HeaderTooLarge, MalformedRequest, RequestTimeout, ServerError
from server.http.connections import Connections
from server.http.raw_answer import raw_answer
from server.http.refusals import Refusals
from server.http.request_guard import BodyRefused
from server.metrics import Refusal

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

_BLANK_LINE = re.compile(rb"\n\r?\n")
_ORIGIN = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_MOST_LINES = 256
"""Lines of a header; each costs time, however short it is."""
_SLICE = 64 << 10
"""Bytes of a body that are parsed at once, and that a chunk's size line and the trailers may have."""
_FREE_CHUNKS, _CHUNK_BYTES = 1024, 32
"""Chunks that may be of any size; beyond, they must have so many bytes on average."""
_EARLY_BYTES = 128 << 10
"""Bytes of the following requests that are kept while one is served."""
_LINGER_S = 15.0


@dataclass(frozen=True)
class TransportLimits:
    """What one connection may cost.

    Args:
        header_timeout_s: seconds from the first byte of a header, or from the connection, to the header's end.
        max_header_bytes: of one request.
        keep_alive_s: seconds between two requests.
        linger_bytes: bytes that are dropped after an answer that did not wait for them.
    """

    header_timeout_s: float
    max_header_bytes: int
    keep_alive_s: float
    linger_bytes: int


class BoundedProtocol(H11Protocol):
    """One connection.

    Of uvicorn's protocol it keeps flow control, the start and end of the connection, and the framing of answers.
    The parsing is its own: one h11 connection for each request, which is given a header only when it is whole.
    ``Upgrade`` is ignored, and the request served as it is.

    Args:
        config: uvicorn's.
        server_state: uvicorn's.
        app_state: of the lifespan.
        connections: of the server; a place in it has been taken for this one.
        refusals: where refusals are counted.
        limits: of this connection.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        connections: Connections,
        refusals: Refusals,
        limits: TransportLimits,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.conn = h11.Connection(h11.SERVER, _SLICE)
        self.cycle: Cycle | None = None  # type: ignore[assignment]
        self._connections = connections
        self._refusals = refusals
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._head = bytearray()
        self._early = bytearray()
        self._chunks = self._body_bytes = self._dropped = 0
        self._lingering = False

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive = self._limits.keep_alive_s  # type: ignore[assignment]
        self._connections.waiting(self)
        self._start_deadline(self._limits.header_timeout_s, self._header_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        self._unset_keepalive_if_required()
        self._connections.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._connections.heard(self)
        self._unset_keepalive_if_required()
        if self._lingering:
            self._drop(len(data))
        elif self.cycle is None or self.cycle.response_complete:
            self._read_header(data)
        elif self.cycle.more_body:
            self._read_body(data)
        else:
            self._keep_early(data)

    def pause_writing(self) -> None:
        """Note that the client does not take its answer as fast as it comes."""
        super().pause_writing()
        self._connections.waiting(self)

    def resume_writing(self) -> None:
        """Note that the client has taken what there was of its answer."""
        super().resume_writing()
        if self.cycle is not None and not (self.cycle.more_body or self.cycle.response_complete):
            self._connections.busy(self)

    def shutdown(self) -> None:
        """Close, at once or after the running request."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def abort(self) -> None:
        """Close at once, whatever has not been sent."""
        self.transport.abort()

    def finish(self) -> None:
        """Close after the answer; if the client is still sending, let it read the answer first."""
        unread = self.cycle is not None and self.cycle.more_body
        if (unread or self._dropped) and not self.transport.is_closing():
            self._linger()
        else:
            self.transport.close()

    @property
    def closing(self) -> bool:
        """Whether there will be no further answer."""
        return self._lingering or self.transport.is_closing()

    # Requests.

    def _read_header(self, data: bytes) -> None:
        """Collect a header until it is whole; h11 would parse it anew with each piece."""
        if self._deadline is None:
            self._start_deadline(self._limits.header_timeout_s, self._header_is_late)
        head, seen = self._head, max(len(self._head) - 3, 0)
        head += data
        if head[:1].isspace():  # empty lines between requests, which some clients send
            head[:] = head.lstrip(b"\r\n")
            seen = 0
        blank = _BLANK_LINE.search(head, seen)
        end = blank.end() if blank else len(head)
        lines = head.count(b"\n", 0, end)
        if end > self._limits.max_header_bytes or lines > _MOST_LINES:
            error = HeaderTooLarge(
                f"The header of a request may have {self._limits.max_header_bytes:,} bytes and {_MOST_LINES} lines "
                "at most."
            )
            self._refuse(error, "header_too_large")
        elif (head and head[0] <= 0x20) or head.count(b"\r\n", 0, end) != lines:
            self._refuse_malformed("not HTTP")
        elif blank:
            self._head = bytearray()
            self._stop_deadline()
            self.conn.receive_data(bytes(head[:end]))
            self.handle_events()
            if end < len(head):
                self.data_received(bytes(head[end:]))

    def _read_body(self, data: bytes) -> None:
        cycle = self.cycle
        assert cycle is not None
        for start in range(0, len(data), _SLICE):
            if cycle.fault is not None:
                return
            if not cycle.more_body:
                self._keep_early(data[start:])
                return
            self.conn.receive_data(data[start : start + _SLICE])
            self.handle_events()

    def _keep_early(self, data: bytes) -> None:
        """Keep what belongs to the next request.

        Reading goes on while a request is served, or the end of the connection would not be noticed. So what
        does not fit is dropped, and the connection is closed after the answer.
        """
        assert self.cycle is not None
        if not self._dropped and len(self._early) + len(data) <= _EARLY_BYTES:
            self._early += data
            return
        self._early.clear()
        self.cycle.keep_alive = False
        self._drop(len(data))

    def handle_events(self) -> None:
        """Take from h11 what there is of the current request."""
        try:
            while (event := self.conn.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Request):
                    self._begin(event)
                elif isinstance(event, h11.Data):
                    self._add_to_body(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self._end()
                    return
                if self._lingering or (self.cycle is not None and self.cycle.fault is not None):
                    return
        except h11.RemoteProtocolError as error:
            self._refuse_malformed(str(error).partition(":")[0])

    def _begin(self, event: h11.Request) -> None:
        headers = list(event.headers)
        names = {name for name, _ in headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            self._refuse_malformed("both Content-Length and Transfer-Encoding")
            return
        if event.http_version not in (b"1.0", b"1.1"):
            self._refuse_malformed("not HTTP/1.1")
            return
        target = _ORIGIN.sub(b"", event.target, count=1) or b"/"
        raw_path, _, query = target.partition(b"?")
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": event.http_version.decode("ascii"),
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": event.method.decode("ascii"),
            "root_path": "",
            "path": unquote(raw_path.decode("ascii")),
            "raw_path": raw_path,
            "query_string": query,
            "headers": headers,
            "state": self.app_state.copy(),
        }
        self._chunks = self._body_bytes = 0
        self.cycle = Cycle(self)
        task = self.loop.create_task(self.cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _add_to_body(self, data: bytes) -> None:
        cycle = self.cycle
        assert cycle is not None
        self._chunks += 1
        self._body_bytes += len(data)
        if self._chunks > _FREE_CHUNKS + self._body_bytes // _CHUNK_BYTES:
            self._refuse_malformed("chunks of a few bytes each")
            return
        if cycle.response_complete:
            return
        cycle.body += data
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def _end(self) -> None:
        assert self.cycle is not None
        self._connections.busy(self)
        self.cycle.more_body = False
        self.cycle.message_event.set()
        rest, _ = self.conn.trailing_data
        if rest:
            self._keep_early(rest)

    def on_response_complete(self) -> None:
        """Get ready for the next request, or serve the one that has already come."""
        self.server_state.total_requests += 1
        if self.closing:
            return
        self.conn = h11.Connection(h11.SERVER, _SLICE)
        self.flow.resume_reading()
        self._connections.waiting(self)
        self._unset_keepalive_if_required()
        if self._early:
            early, self._early = bytes(self._early), bytearray()
            self._read_header(early)
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.transport.close
            )

    # Refusals.

    def _header_is_late(self) -> None:
        seconds = self._limits.header_timeout_s
        error = RequestTimeout(f"The header of the request was not whole after {seconds:g} s.")
        if self._head:
            self._refuse(error, "header_timeout")
        else:  # a connection in reserve, as browsers make them: an answer would be taken for that to a later request
            self._refusals.note("header_timeout", **self._described())
            self.transport.close()

    def _refuse_malformed(self, fault: str) -> None:
        error = MalformedRequest(f"The request is not valid HTTP/1.1 ({fault}).")
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._refuse(error, "malformed", fault=fault)
            return
        self._refusals.note("malformed", fault=fault, **self._described())
        cycle.fault = error  # the app is reading the body, and answers
        cycle.message_event.set()

    def _refuse(self, error: ServerError, reason: Refusal, **details: str) -> None:
        """Answer, and close; for what has not become a request."""
        self._refusals.note(reason, **details, **self._described())
        self._head = bytearray()
        self.transport.write(raw_answer(error))
        self._linger()

    def _described(self) -> dict[str, str]:
        return {"client": self.client[0]} if self.client else {}

    # The end.

    def _linger(self) -> None:
        """Close for writing, and drop what the client still sends.

        To close at once would make its system discard the answer before it is read.
        """
        self._lingering = True
        self._unset_keepalive_if_required()
        self._connections.waiting(self)
        self._start_deadline(_LINGER_S, self.transport.abort)
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _drop(self, count: int) -> None:
        self._dropped += count
        if self._dropped > self._limits.linger_bytes:
            if not self._lingering:
                self._refusals.note("flood", **self._described())
            self.transport.abort()

    def _start_deadline(self, seconds: float, late: Callable[[], object]) -> None:
        self._stop_deadline()
        self._deadline = self.loop.call_later(seconds, late)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Line:
    """The transport as a cycle sees it: closing it lets the client read the answer."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        self._protocol.transport.write(data)

    def close(self) -> None:
        self._protocol.finish()

    def is_closing(self) -> bool:
        return self._protocol.closing


class Cycle(RequestResponseCycle):
    """One request and its answer.

    Args:
        protocol: of the connection; its ``scope`` and ``conn`` are those of the request.

    Attributes:
        fault: what was wrong with the body.
    """

    def __init__(self, protocol: BoundedProtocol) -> None:
        super().__init__(
            scope=protocol.scope,
            conn=protocol.conn,
            transport=_Line(protocol),  # type: ignore[arg-type]
            flow=protocol.flow,
            logger=protocol.logger,
            access_logger=protocol.access_logger,
            access_log=False,
            default_headers=protocol.server_state.default_headers,
            message_event=asyncio.Event(),
            on_response=protocol.on_response_complete,
        )
        self.fault: ServerError | None = None

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the answer. One that does not wait for the whole request is the connection's last."""
        if message["type"] == "http.response.start" and not (
            self.keep_alive and not self.more_body
        ):
            self.keep_alive = False
            headers = [*message.get("headers", []), CLOSE_HEADER]
            message = {**message, "headers": headers}
        await super().send(message)

    async def receive(self) -> ASGIReceiveEvent:
        """Receive the next part of the request.

        Raises:
            BodyRefused: the framing of the body is wrong.
        """
        message = await super().receive()
        if self.fault is not None and message["type"] == "http.request":
            raise BodyRefused(self.fault)
        return message
