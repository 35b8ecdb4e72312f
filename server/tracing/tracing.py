"""OpenTelemetry's SDK, set up by its standard variables: propagation, sampling, resource, batches, exporters."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind

from server import __version__
from server.tracing.request_trace import RequestTrace
from server.tracing.timed_span import TimedSpan, wall_clock_epoch_ns

_SERVICE = "star-server"
_METHODS = frozenset(
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"]
)


class Tracing:
    """Makes the traces of requests, and exports them.

    Sampler, limits and resource come from ``OTEL_*`` variables. The provider is this object's own, not the global
    one: libraries that a process loads send nothing by it.

    Args:
        exporters: take finished spans, in batches, in a thread.
    """

    def __init__(self, exporters: Sequence[SpanExporter]) -> None:
        self._provider = TracerProvider(resource=_resource())
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("star-server", __version__)

    @property
    def sampler(self) -> str:
        """Description of the sampler."""
        return str(self._provider.sampler.get_description())

    def begin(self, method: str, headers: Mapping[str, str]) -> RequestTrace:
        """Begin the trace of a request, or go on with its caller's.

        Args:
            method: of the request.
            headers: names in lower case.
        """
        known = method in _METHODS  # else anybody could make up names of spans
        name, epoch_ns = method if known else "HTTP", wall_clock_epoch_ns()
        span = self._tracer.start_span(
            name,
            context=extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method if known else "_OTHER"},
            start_time=epoch_ns + time.monotonic_ns(),
        )
        return RequestTrace(name, TimedSpan(self._tracer, span, epoch_ns))

    def flush(self) -> None:
        """Export what is finished; blocks."""
        self._provider.force_flush()

    def close(self) -> None:
        """Export what is left, and end the threads; blocks for as long as the exporter's timeout."""
        self._provider.shutdown()


def _resource() -> Resource:
    """Return what the spans are of; what the variables say of the service is kept."""
    given = Resource.create()
    unnamed = str(given.attributes["service.name"]).startswith("unknown_service")
    named = {k: v for k, v in given.attributes.items() if k != "service.name" or not unnamed}
    return Resource({"service.name": _SERVICE, "service.version": __version__, **named})
