"""A request's place in the service, from admission to its one outcome."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from server.errors import ServerError
from server.messages import ImageShape, Job, ModelInfo, Painted, Preview

if TYPE_CHECKING:
    from server.tracing.generation_trace import GenerationTrace


class Ticket:
    """The API's handle of an admitted request.

    Use it as a context manager: leaving the context cancels the request unless it is over.

    Args:
        job: the request as the worker sees it.
        model: the loaded model.
        admitted_at: time of admission; seconds on the client's clock.
        preview_buffer: previews kept while nobody reads; the oldest are dropped, finished images never.
        leave: called when the context is left, with the error that ends the request, if it is not the worker's.

    Attributes:
        started_at: time at which the first image got a slot; None before.
        ended_at: time of the outcome; None before.
        first_preview_at: time of the first preview; None before.
        warnings: sentences for the caller about how the texts were read.
        text_tokens: tokens of the prompt and the negative prompt.
        unfinished: images that are still to come.
        expiry: timer of the request's deadline, which is kept here alone.
        trace: spans of its images; None when they are not recorded.
    """

    def __init__(
        self,
        job: Job,
        model: ModelInfo,
        admitted_at: float,
        preview_buffer: int,
        leave: Callable[[Ticket, ServerError | None], None],
    ) -> None:
        self.job = job
        self.model = model
        self.admitted_at = admitted_at
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.first_preview_at: float | None = None
        self.warnings: tuple[str, ...] = ()
        self.text_tokens = 0
        self.unfinished = len(job.seeds)
        self.expiry: asyncio.TimerHandle | None = None
        self.trace: GenerationTrace | None = None
        self._error: ServerError | None = None
        self._events: deque[Preview | Painted] = deque()
        self._preview_buffer = preview_buffer
        self._changed = asyncio.Event()
        self._leave = leave

    @property
    def shape(self) -> ImageShape:
        """Size and tokens of its images."""
        return self.model.shapes[self.job.shape]

    @property
    def over(self) -> bool:
        """True once the request has its outcome."""
        return self.ended_at is not None

    @property
    def queue_seconds(self) -> float:
        """Seconds from admission to the first slot; to the end for a request that never got one."""
        until = self.started_at if self.started_at is not None else self.ended_at
        return (until if until is not None else self.admitted_at) - self.admitted_at

    @property
    def inference_seconds(self) -> float:
        """Seconds from the first slot to the end; 0 for a request that never got one."""
        if self.started_at is None or self.ended_at is None:
            return 0.0
        return self.ended_at - self.started_at

    @property
    def times(self) -> dict[str, float]:
        """Queue and inference seconds, under their names in the log."""
        return {
            "queue_s": round(self.queue_seconds, 4),
            "inference_s": round(self.inference_seconds, 4),
        }

    def push(self, event: Preview | Painted) -> None:
        """Hand an event to the reader of :meth:`events`."""
        if isinstance(event, Preview):
            queued = [e for e in self._events if isinstance(e, Preview)]
            if len(queued) >= self._preview_buffer:
                self._events.remove(queued[0])
        else:
            self.unfinished -= 1
        self._events.append(event)
        self._changed.set()

    def end(self, now: float, error: ServerError | None = None) -> None:
        """Record the outcome: all images, or ``error``. The first outcome stands."""
        if self.ended_at is None:
            self.ended_at = now
            self._error = error
            self._changed.set()
            if self.expiry is not None:
                self.expiry.cancel()  # it would keep the images alive until the deadline

    def fail(self, error: ServerError) -> None:
        """End the request with an error of what is done with its images here; nothing if it is over."""
        self._leave(self, error)

    async def events(self, silence: float | None = None) -> AsyncIterator[Preview | Painted | None]:
        """Yield previews and finished images as they come, until the last image.

        Args:
            silence: seconds without an event after which None is yielded.

        Raises:
            ServerError: the request ended without all its images; what came before has been yielded.
        """
        while True:
            while self._events:
                yield self._events.popleft()
            if self._error is not None:
                raise self._error
            if self.over:
                return
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), silence)
            except TimeoutError:
                yield None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave(self, error if isinstance(error, ServerError) else None)
