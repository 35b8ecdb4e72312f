"""A span whose times are those that this service measures with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from opentelemetry.trace import Status, StatusCode, set_span_in_context

from server.tracing.exemplar import Exemplar

Attributes = Mapping[str, Any]


class TimedSpan:
    """A span of OpenTelemetry, and the way to the spans below it.

    All times are seconds on ``time.monotonic()``, which the processes of a machine share: so the spans of a worker's
    steps are made from the times that it sends with its messages. They are placed on the wall clock by one reading of
    it, taken when the request came.

    Args:
        tracer: makes spans.
        span: the span itself, started.
        epoch_ns: nanoseconds of the wall clock at 0 of the monotonic one.
    """

    def __init__(self, tracer: Any, span: Any, epoch_ns: int) -> None:
        self._tracer = tracer
        self._span = span
        self._epoch_ns = epoch_ns
        self._context = set_span_in_context(span)

    @property
    def recorded(self) -> bool:
        """False for a span that the sampler has left out."""
        return bool(self._span.is_recording())

    @property
    def ids(self) -> Exemplar:
        """Ids of the trace and of the span, as logs and exemplars have them."""
        context = self._span.get_span_context()
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}

    @property
    def traceparent(self) -> str:
        """The span as a header (W3C Trace Context)."""
        ids, flags = self.ids, self._span.get_span_context().trace_flags
        return f"00-{ids['trace_id']}-{ids['span_id']}-{int(flags):02x}"

    def child(self, name: str, started: float, attributes: Attributes | None = None) -> TimedSpan:
        """Start a span below this one."""
        span = self._tracer.start_span(
            name,
            context=self._context,
            attributes=attributes,
            start_time=self._wall_ns(started),
        )
        return TimedSpan(self._tracer, span, self._epoch_ns)

    def stage(
        self, name: str, started: float, ended: float, attributes: Attributes | None = None
    ) -> Exemplar:
        """Add a finished span below this one, and return its ids."""
        span = self.child(name, started, attributes)
        span.end(ended)
        return span.ids

    def rename(self, name: str) -> None:
        """Change the name."""
        self._span.update_name(name)

    def describe(self, attributes: Attributes) -> None:
        """Add attributes."""
        self._span.set_attributes(attributes)

    def fail(self, code: str) -> None:
        """Mark the span as one that ended with an error."""
        self._span.set_attribute("error.type", code)
        self._span.set_status(Status(StatusCode.ERROR, code))

    def end(self, at: float) -> None:
        """End the span; it is exported as it is now."""
        self._span.end(end_time=self._wall_ns(at))

    def _wall_ns(self, seconds: float) -> int:
        return self._epoch_ns + round(seconds * 1e9)


def wall_clock_epoch_ns() -> int:
    """Return the nanoseconds of the wall clock at 0 of the monotonic one."""
    return time.time_ns() - time.monotonic_ns()
