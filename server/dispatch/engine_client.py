"""The event loop's side of the engine: admission, submission, cancellation, and one outcome for each request.

Every request is admitted against one bounded count of images before any other work is done for it. When a worker
dies, requests of which it had begun an image fail with ``engine_dead``; all others are served by another worker or by
its successor.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from server.dispatch.service_rate import ServiceRate, retry_after
from server.dispatch.ticket import Ticket
from server.dispatch.worker_pool import PoolCallbacks, WorkerPool
from server.dispatch.worker_process import Launch
from server.dispatch.worker_state import Phase
from server.errors import (
    ClientClosed,
    DeadlineExceeded,
    Draining,
    EngineDead,
    InternalError,
    InvalidRequest,
    ModelLoading,
    OutOfMemory,
    QueueFull,
    ServerError,
    Unavailable,
)
from server.messages import (
    INTERACTIVE,
    Failed,
    FailureCode,
    Freed,
    Job,
    ModelInfo,
    Painted,
    Preview,
    PromptEncoded,
    Started,
    Timing,
    Withdrawn,
    Work,
)
from server.metrics import Metrics
from server.model_metrics import ModelMetrics
from server.setting_values import label_of
from server.settings import Settings
from server.tracing.exemplar import Exemplar

if TYPE_CHECKING:
    from server.tracing.generation_trace import GenerationTrace
    from server.tracing.request_trace import RequestTrace

_DRAINING = "The server is shutting down; send the request to another one."
_CUT_SHORT = "The server shut down before it had finished this request; send it to another one."
_DRAINING_SECONDS = 5.0
_OUT_OF_MEMORY_SECONDS = 5.0
_FAILURES: dict[FailureCode, type[ServerError]] = {
    "out_of_memory": OutOfMemory,
    "internal_error": InternalError,
    "invalid_request_error": InvalidRequest,
}


class DrainTimedOut(Draining):
    """The server shut down while it worked on the request, which is a failure, not a refusal."""

    outcome = "error"


class EngineClient:
    """Submits jobs to the workers of one model.

    Args:
        launch: starts a worker.
        settings: sizes of queue and buffers, number of workers, timeouts.
        metrics: where everything is counted.
        clock: seconds, monotonic, shared with the workers.
        labels: of its workers in the log.

    Attributes:
        workers: the pool.
        settings: in force.
    """

    def __init__(
        self,
        launch: Launch,
        settings: Settings | None = None,
        metrics: ModelMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        labels: Mapping[str, str | int] | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.metrics = metrics or ModelMetrics(Metrics(), label_of(self.settings.model[0]))
        self.clock = clock
        callbacks = PoolCallbacks(ready=self._on_ready, lost=self._on_lost, work=self._on_work)
        self.workers = WorkerPool(launch, self.settings, callbacks, self.metrics, clock, labels)
        self._tickets: dict[str, Ticket] = {}  # not over, in order of admission
        self._rate = ServiceRate()
        self._draining_since: float | None = None
        self._holders = 0

    # State of the service.

    @property
    def phase(self) -> Phase:
        """Phase of the service's life."""
        draining = self._draining_since is not None and self.workers.phase != "stopped"
        return "draining" if draining else self.workers.phase

    @property
    def phase_seconds(self) -> float:
        """Seconds since the phase began."""
        since = self._draining_since if self.phase == "draining" else None
        return self.clock() - (self.workers.phase_since if since is None else since)

    @property
    def outstanding(self) -> int:
        """Number of images that have been admitted and are not finished."""
        return sum(ticket.unfinished for ticket in self._tickets.values())

    @property
    def running(self) -> int:
        """Number of interactive requests with at least one image that has left the queue."""
        return sum(ticket.started_at is not None for ticket in self._interactive())

    @property
    def waiting(self) -> int:
        """Number of interactive requests that wait for their first slot."""
        return sum(ticket.started_at is None for ticket in self._interactive())

    @property
    def requests(self) -> int:
        """Number of requests in progress, interactive or not."""
        return len(self._tickets)

    @property
    def idle(self) -> bool:
        """True while no request is in progress."""
        return not self._tickets

    @property
    def unused(self) -> bool:
        """True while no request is in progress, and none that holds the client may bring one."""
        return self.idle and not self._holders

    @contextlib.contextmanager
    def held(self) -> Iterator[Self]:
        """Hold the client for a request that is being checked: until then, no other takes its model away."""
        self._holders += 1
        try:
            yield self
        finally:
            self._holders -= 1

    @property
    def model(self) -> ModelInfo:
        """The loaded model, also while its workers restart.

        Raises:
            ModelLoading: it has not been loaded yet.
        """
        if self.workers.model is None:
            wait = retry_after(self.workers.seconds_to_ready)
            raise ModelLoading("The model is still loading; try again soon.", retry_after=wait)
        return self.workers.model

    def check_ready(self) -> ModelInfo:
        """Return the loaded model.

        Raises:
            Unavailable: nothing can be served right now; the error says why, and when to try again.
        """
        if self.phase in ("draining", "stopped"):
            raise _draining()
        model = self.model
        if self.workers.phase == "ready":
            return model
        wait = retry_after(self.workers.seconds_to_ready)
        raise EngineDead("The engine is restarting; try again soon.", retry_after=wait)

    def require_ready(self) -> ModelInfo:
        """Return the loaded model for a request that asks for images; a refusal is counted.

        Raises:
            Unavailable: see :meth:`check_ready`.
        """
        try:
            return self.check_ready()
        except Unavailable as error:
            self.metrics.reject(error)
            raise

    def start(self) -> None:
        """Start the workers; returns before the model is loaded. Call it on the event loop."""
        self.workers.start()

    def change(self, settings: Settings) -> None:
        """Go by other limits and another log level from now on."""
        self.settings = settings
        self.workers.log_from(settings.log_level)

    async def close(self) -> None:
        """Fail what is left, and end the workers."""
        self.begin_drain()
        self.abandon()
        await self.workers.close()

    # Requests.

    def submit(self, job: Job, deadline: float, trace: RequestTrace | None = None) -> Ticket:
        """Admit a job and queue it for the workers.

        Args:
            job: its id must be new.
            deadline: time on the client's clock at which the request fails if it is not done.
            trace: of the request, if it has one.

        Raises:
            QueueFull: there is no room for its images; ``retry_after`` says when there may be.
            Unavailable: see :meth:`check_ready`.
        """
        model = self.require_ready()  # the service may have changed since the request came
        self.require_room(job)
        now = self.clock()
        if self.idle:
            self._rate.busy(now)
        spans = trace.generation(job, model, now) if trace is not None else None
        if spans is not None:
            job = replace(job, trace_id=spans.ids["trace_id"])
        ticket = Ticket(job, model, now, self.settings.preview_buffer, self._leave)
        ticket.trace = spans
        self._tickets[job.id] = ticket
        loop = asyncio.get_running_loop()
        ticket.expiry = loop.call_later(max(deadline - now, 0.0), self._expire, ticket)
        self.workers.submit(job)
        return ticket

    def begin_drain(self) -> None:
        """Refuse new requests and those still queued; what has been started goes on."""
        if self._draining_since is None:
            self._draining_since = self.clock()
            for ticket in [t for t in self._tickets.values() if t.started_at is None]:
                self._end(ticket, _draining())

    def abandon(self) -> None:
        """Fail what is still running: the time to drain is over."""
        for ticket in list(self._tickets.values()):
            self._end(ticket, DrainTimedOut(_CUT_SHORT, retry_after=retry_after(_DRAINING_SECONDS)))

    def require_room(self, job: Job) -> None:
        """Refuse a job for which the queue has no room.

        Each class has a queue of its own, so batch work never fills that of others. A full queue still takes the images
        of a tenant up to its even share, so no tenant can shut out another.

        Raises:
            QueueFull: ``retry_after`` says when there may be; it is counted.
        """
        held = Counter[str]()
        for ticket in self._tickets.values():
            if ticket.job.priority == job.priority:
                held[ticket.job.tenant] += ticket.unfinished
        if not held:  # an idle server takes a request of any legal size
            return
        limit, images = self.settings.queue_capacity + self.workers.slots, len(job.seeds)
        excess = held.total() + images - limit
        tenants = len(held.keys() | {job.tenant})
        if excess <= 0 or (tenants > 1 and (held[job.tenant] + images) * tenants <= limit):
            return
        wait = retry_after(self._rate.seconds_until(excess))
        error = QueueFull(
            f"The queue is full: {held.total()} images are in flight and {limit} may be. "
            f"Try again in {wait} s.",
            retry_after=wait,
        )
        self.metrics.reject(error)
        raise error

    def in_flight_of(self, tenant: str) -> int:
        """Return the number of a tenant's images that have been admitted and are not finished."""
        return sum(t.unfinished for t in self._tickets.values() if t.job.tenant == tenant)

    def wait_for(self, images: int) -> int:
        """Return the seconds after which this many more images may be finished, for ``Retry-After``."""
        return retry_after(self._rate.seconds_until(images))

    def _interactive(self) -> list[Ticket]:
        # A copy, made in one go: metrics may be read in another thread, as they are under Ray.
        return [t for t in tuple(self._tickets.values()) if t.job.priority == INTERACTIVE]

    def _leave(self, ticket: Ticket, error: ServerError | None) -> None:
        """End a ticket that its holder lets go of before it is over; without another error, its client disconnected."""
        if not ticket.over:
            self._give_up(ticket, error)
        if ticket.trace is not None:
            ticket.trace.end(self.clock())

    def _give_up(self, ticket: Ticket, error: ServerError | None) -> None:
        if error is None or isinstance(error, ClientClosed):
            if ticket.trace is not None:
                ticket.trace.fail(ClientClosed.code)
            stage = "queued" if ticket.started_at is None else "running"
            self.metrics.cancellations.labels(stage).inc()
        self._end(ticket, error)

    def _expire(self, ticket: Ticket) -> None:
        if not ticket.over:
            where = "in the queue" if ticket.started_at is None else "while it was running"
            self._end(
                ticket,
                DeadlineExceeded(f"The request's deadline passed {where}; raise timeout_s."),
            )

    def _end(self, ticket: Ticket, error: ServerError | None) -> None:
        """Give a ticket its outcome, and stop whatever is still done for it."""
        if self._tickets.pop(ticket.job.id, None) is None:
            return
        ticket.end(self.clock(), error)
        self.workers.remove(ticket.job.id)
        if ticket.started_at is not None and ticket.job.priority == INTERACTIVE:
            self.metrics.queue_duration.observe(ticket.queue_seconds, _exemplar(ticket))
        if ticket.trace is not None:
            images = len(ticket.job.seeds) - ticket.unfinished
            ticket.trace.conclude(ticket.text_tokens, images * ticket.shape.tokens, error)

    # Messages from the workers.

    def _on_ready(self, model: ModelInfo) -> None:
        self.metrics.describe_model(model)
        ready = self.workers.slots // model.slots
        self._rate = ServiceRate(model.seconds_per_image / ready)
        self._rate.busy(self.clock())

    def _on_lost(self, job_ids: list[str]) -> None:
        for job_id in job_ids:
            wait = retry_after(self.workers.seconds_to_ready)
            error = EngineDead(
                "The engine failed while it worked on this request; try again.", retry_after=wait
            )
            self._end(self._tickets[job_id], error)

    def _on_work(self, worker: int, message: Work) -> None:
        if isinstance(message, Timing):
            self.metrics.observe(message, self._trace(message))
        elif (ticket := self._tickets.get(message.job_id)) is not None:  # else it is over
            if ticket.trace is not None:
                self._trace_slot(ticket.trace, worker, message)
            self._on_progress(ticket, message)

    def _trace_slot(self, trace: GenerationTrace, worker: int, message: Work) -> None:
        """Note in a trace that one of its images has got a slot, or lost it to others."""
        match message:
            case Started(_, image, at):
                trace.started(image, worker, at)
            case Withdrawn(_, image):
                trace.withdrawn(image, self.clock())

    def _trace(self, timing: Timing) -> Exemplar | None:
        """Add a worker's step to the traces of its images; return the ids of one of the spans."""
        exemplar = None
        for job_id, image in timing.images:
            ticket = self._tickets.get(job_id)
            if ticket is not None and ticket.trace is not None:
                exemplar = ticket.trace.worked(image, timing)
        return exemplar

    def _on_progress(
        self,
        ticket: Ticket,
        message: Started | PromptEncoded | Freed | Withdrawn | Preview | Painted | Failed,
    ) -> None:
        now = self.clock()
        match message:
            case Started(_, _, at) if ticket.started_at is None:
                ticket.started_at = at
            case PromptEncoded(_, tokens, warnings):
                ticket.text_tokens, ticket.warnings = tokens, warnings
            case Preview():
                if ticket.first_preview_at is None:
                    ticket.first_preview_at = now
                    seconds = now - ticket.admitted_at
                    self.metrics.first_preview.observe(seconds, _exemplar(ticket))
                ticket.push(message)
            case Painted():
                ticket.push(message)
                self._rate.finished(now)
                if ticket.job.tenant:
                    self.metrics.service.count_key_image(ticket.job.tenant)
                if not ticket.unfinished:
                    self._end(ticket, None)
            case Failed(_, code, text):
                wait = retry_after(_OUT_OF_MEMORY_SECONDS) if code == "out_of_memory" else None
                self._end(ticket, _FAILURES[code](text, retry_after=wait))


def _exemplar(ticket: Ticket) -> Exemplar | None:
    return ticket.trace.ids if ticket.trace is not None else None


def _draining() -> Draining:
    return Draining(_DRAINING, retry_after=retry_after(_DRAINING_SECONDS))
