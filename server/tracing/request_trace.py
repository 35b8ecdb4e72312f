"""The trace of one HTTP request: its server span, what the server does itself, and the generation of its images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from server.errors import ServerError
from server.messages import Job, ModelInfo
from server.tracing.exemplar import CURRENT, Exemplar
from server.tracing.generation_trace import GenerationTrace
from server.tracing.timed_span import TimedSpan


class RequestTrace:
    """The trace of one request.

    Args:
        name: of the server span until its route is known.
        span: the server span; nothing is added below one that is not recorded.
    """

    def __init__(self, name: str, span: TimedSpan) -> None:
        self._name = name
        self._span = span
        self._sending: TimedSpan | None = None
        self._bytes = 0
        self._generation: GenerationTrace | None = None

    @property
    def traceparent(self) -> str:
        """The server span as a header (W3C Trace Context)."""
        return self._span.traceparent

    @property
    def exemplar(self) -> Exemplar | None:
        """What histograms link to; None when the trace is not recorded, and the link would lead nowhere."""
        return self._span.ids if self._span.recorded else None

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Put the ids into the log lines of this task, and into the exemplars of its histograms."""
        token = CURRENT.set(self.exemplar)
        try:
            with structlog.contextvars.bound_contextvars(**self._span.ids):
                yield
        finally:
            CURRENT.reset(token)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done for the request in this process."""
        if not self._span.recorded:
            yield
            return
        span = self._span.child(name, time.monotonic())
        try:
            yield
        except ServerError as error:
            span.fail(error.code)
            raise
        except BaseException as error:
            span.fail(type(error).__name__)
            raise
        finally:
            span.end(time.monotonic())

    def generation(self, job: Job, model: ModelInfo, now: float) -> GenerationTrace | None:
        """Begin the spans of an admitted job; None when they are not recorded."""
        if not self._span.recorded:
            return None
        self._generation = GenerationTrace(self._span, job, model, now)
        return self._generation

    def send(self) -> None:
        """Begin the span in which the answer is sent."""
        if self._span.recorded and self._sending is None:
            self._sending = self._span.child("send", time.monotonic())

    def wrote(self, size: int, *, last: bool) -> None:
        """Note that a part of the answer's body has been sent.

        Args:
            size: of the part in bytes.
            last: no other follows.
        """
        self._bytes += size
        if last:
            self._end_sending()

    def _end_sending(self) -> None:
        if self._sending is not None:
            self._sending.describe({"http.response.body.size": self._bytes})
            self._sending.end(time.monotonic())
            self._sending = None

    def end(self, route: str | None, attributes: dict[str, Any], failure: str | None) -> None:
        """End the trace, and whatever of it is still open.

        Args:
            route: path of the route that the request matched, if there is one.
            attributes: of the server span.
            failure: code of the error, if the server failed.
        """
        self._end_sending()
        now = time.monotonic()
        if self._generation is not None:
            self._generation.end(now)
        if route is not None:
            self._span.rename(f"{self._name} {route}")
            self._span.describe({"http.route": route})
        self._span.describe(attributes)
        if failure is not None:
            self._span.fail(failure)
        self._span.end(now)
