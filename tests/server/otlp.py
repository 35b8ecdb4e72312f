"""A receiver of OTLP over HTTP: what a collector is to a program that exports its traces."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it came over the wire.

    Attributes:
        span: of the official protocol.
        resource: attributes of what sent it.
    """

    span: Span
    resource: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.span.name)

    @property
    def trace_id(self) -> str:
        return str(self.span.trace_id.hex())

    @property
    def span_id(self) -> str:
        return str(self.span.span_id.hex())

    @property
    def parent_id(self) -> str:
        return str(self.span.parent_span_id.hex())

    @property
    def seconds(self) -> float:
        return float(self.span.end_time_unix_nano - self.span.start_time_unix_nano) / 1e9

    @property
    def attributes(self) -> dict[str, Any]:
        return attributes_of(self.span.attributes)


def attributes_of(pairs: Any) -> dict[str, Any]:
    """Attributes of the protocol as a dictionary; lists are left as they are."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
        for pair in pairs
    }


class Receiver:
    """Takes exported spans.

    Attributes:
        status: of its answers; 200 takes what comes.
        headers: of the latest request.
    """

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests = 0
        self._spans: list[ReceivedSpan] = []
        self._lock = threading.Lock()

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans so far, the first to start first."""
        with self._lock:
            return sorted(self._spans, key=lambda each: each.span.start_time_unix_nano)

    def of(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans of a trace."""
        return [span for span in self.spans if span.trace_id == trace_id]

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """Take a request, and return the status of its answer."""
        with self._lock:
            self.headers, self.requests = headers, self.requests + 1
            if path != "/v1/traces" or headers.get("content-type") != "application/x-protobuf":
                return 400
            if self.status != 200:
                return self.status
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for sender in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = attributes_of(sender.resource.attributes)
                for scope in sender.scope_spans:
                    self._spans += [ReceivedSpan(span, resource) for span in scope.spans]
            return 200


@contextmanager
def running_receiver() -> Iterator[tuple[Receiver, str]]:
    """Listen on a free port; yields the receiver and its address, as ``OTEL_EXPORTER_OTLP_ENDPOINT`` has it."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(receiver.take(self.path, headers, body))
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="otlp-receiver")
    thread.start()
    try:
        yield receiver, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
