"""The main loop of the worker: receive, schedule, step, publish.

It drives anything that looks like :class:`Engine`, so tests run it in a thread with a fake one.

**One turn ahead.** A GPU is given its work and does it later. What it was given in one turn of the loop, a step and
what there was to decode after it, is waited for only once it has been given the work of the next turn: it never
idles while the loop schedules, or hands pixels on. More than one turn ahead would gain nothing, and newcomers would
have to wait for it. On a CPU all work is done when the call returns, and nothing is ever waited for.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Generic

import structlog

from server.messages import (
    Cancel,
    Failed,
    FailureCode,
    Freed,
    FromWorker,
    Heartbeat,
    Job,
    Paint,
    Painted,
    Pixels,
    Preview,
    Shutdown,
    Started,
    TextRead,
    Timing,
    ToWorker,
)
from server.worker.engine_protocol import Engine, SequenceT, Text, TextT
from server.worker.pending import Pending, UnderWay
from server.worker.scheduler import Key, Scheduler


@dataclass(slots=True)
class _Image(Generic[SequenceT]):
    """An image between its preparation and its last pixel.

    Args:
        preview_at: after how many scales a preview is due.
        scale: how many it has.
    """

    job: Job
    sequence: SequenceT
    preview_at: tuple[int, ...]
    scale: int = 0


def preview_scales(num_scales: int, previews: int) -> tuple[int, ...]:
    """After how many scales an image is decoded for each preview: evenly spread, the last scale left out.

    >>> preview_scales(10, 3)
    (2, 5, 8)
    """
    spread = {round(i * num_scales / (previews + 1)) for i in range(1, previews + 1)}
    return tuple(sorted(s for s in spread if 1 <= s < num_scales))


class EngineLoop(Generic[TextT, SequenceT]):
    """Runs jobs on an engine until told to shut down.

    Args:
        engine: where images are painted.
        scheduler: which of them are.
        inbox: messages for this loop.
        publish: takes each message from it; may be called from this thread alone.
        clock: seconds, monotonic, the clock that the deadlines are of.
        text_cache: encoded prompts kept.
    """

    def __init__(
        self,
        engine: Engine[TextT, SequenceT],
        scheduler: Scheduler,
        inbox: queue.SimpleQueue[ToWorker],
        publish: Callable[[FromWorker], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        text_cache: int = 256,
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._inbox = inbox
        self._send = publish
        self._clock = clock
        # Prompts are encoded one at a time: in a batch, padding changes the low bits, and a seed is a
        # promise.
        self._encode = lru_cache(maxsize=text_cache)(self._encode_anew)
        self._arrivals: deque[Paint] = deque()
        self._images: dict[Key, _Image[SequenceT]] = {}
        self._previews: dict[Key, int] = {}  # that are due, and which of its image each is
        self._under_way = UnderWay(clock)
        self._log = structlog.get_logger("star.worker")
        self.state = self._observe(idle=True)

    def run(self) -> None:
        """Work until a :class:`Shutdown` comes.

        Raises:
            Exception: an error after which the engine is of no more use, once its jobs have been failed.
        """
        while self._receive():
            batch = self._schedule()
            before = self._under_way.given
            stepped = self._step(batch)
            self._publish(stepped)
            self._under_way.settle_all_but(self._under_way.given - before if stepped else 0)

    def _receive(self) -> bool:
        """Take what has come, waiting for it when there is nothing to do; false to stop."""
        idle = not self._images and not self._arrivals and not self._under_way
        self.state = self._observe(idle)
        while True:
            try:
                message = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            idle = False
            match message:
                case Paint():
                    self._arrivals.append(message)
                case Cancel(job_id):
                    self._drop(job_id)
                case Shutdown():
                    return False

    def _schedule(self) -> tuple[Key, ...]:
        """Let go of what is late, prepare what has come, and pick the batch."""
        for job_id in self._scheduler.expired(self._clock()):
            self._fail(
                job_id, "deadline_exceeded", "The request's deadline passed before it was done."
            )
        self._prepare_arrivals()
        self.state = self._observe(idle=False)
        return self._scheduler.next_batch()

    def _prepare_arrivals(self) -> None:
        """Prepare all that have come, unless others would wait for it: then up to one new text, or image to edit."""
        others = bool(self._images)
        while self._arrivals and self._engine.free_slots:
            encoded = self._encode.cache_info().misses
            paint = self._arrivals.popleft()
            self._prepare(paint)
            if others and (
                paint.job.edit is not None or self._encode.cache_info().misses > encoded
            ):
                break

    def _step(self, batch: tuple[Key, ...]) -> tuple[Key, ...]:
        """Have the batch advanced by one scale; returns what of it will be: all or nothing."""
        if not batch:
            return ()
        scale = self._images[batch[0]].scale
        started = self._clock()
        try:
            work = self._engine.step(self._sequences(batch))
        except Exception as error:
            self._fail_batch(batch, error)
            return ()
        self._under_way.begin(work, partial(self._stepped, work, batch, scale, started))
        return tuple(key for key in batch if key in self._images)

    def _stepped(
        self, work: Pending[None], batch: tuple[Key, ...], scale: int, started: float
    ) -> None:
        try:
            work.wait()
        except Exception as error:
            self._fail_batch(batch, error)
            return
        self._send(Timing("scale_step", self._under_way.seconds_since(started), len(batch), scale))

    def _publish(self, stepped: tuple[Key, ...]) -> None:
        """Have finished images decoded, then previews; they are sent as soon as they are there."""
        for key in stepped:
            image = self._images[key]
            image.scale += 1
            if image.scale in image.preview_at:
                self._previews[key] = image.preview_at.index(image.scale)
        finished = self._scheduler.advance(stepped)
        for (
            key
        ) in finished:  # before they are decoded, so that who comes next is here when they are
            self._previews.pop(key, None)
            self._send(Freed(*key))
        self._decode(finished, self._engine.finish, self._painted)
        self._decode_previews()

    def _painted(self, key: Key, pixels: Pixels) -> None:
        del self._images[key]
        self._send(Painted(*key, pixels))

    def _decode_previews(self) -> None:
        """Have the previews decoded that are due, unless others would wait for it: then one between two steps.

        A preview that has not been decoded by the time that the next one of its image is due is left out.
        """
        waiting_for_theirs = {key.job_id for key in self._previews}
        others = self._arrivals or any(key.job_id not in waiting_for_theirs for key in self._images)
        keys = list(self._previews)[: 1 if others else None]
        indices = {key: self._previews.pop(key) for key in keys}
        self._decode(
            keys,
            self._engine.preview,
            lambda key, pixels: self._send(Preview(*key, indices[key], pixels)),
        )

    def _decode(
        self,
        keys: Sequence[Key],
        decode: Callable[[Sequence[SequenceT]], Pending[list[Pixels]]],
        publish: Callable[[Key, Pixels], None],
    ) -> None:
        if not keys:
            return
        started = self._clock()
        try:
            work = decode(self._sequences(keys))
        except Exception as error:
            self._fail_batch(keys, error)
            return
        self._under_way.begin(work, partial(self._decoded, work, keys, publish, started))

    def _decoded(
        self,
        work: Pending[list[Pixels]],
        keys: Sequence[Key],
        publish: Callable[[Key, Pixels], None],
        started: float,
    ) -> None:
        try:
            images = work.wait()
        except Exception as error:
            self._fail_batch(keys, error)
            return
        self._send(Timing("vae_decode", self._under_way.seconds_since(started), len(keys)))
        for key, pixels in zip(keys, images, strict=True):
            if key in self._images:  # else its job was cancelled meanwhile
                publish(key, pixels)

    def _prepare(self, paint: Paint) -> None:
        """Encode the text and take a slot; a failure is the job's own."""
        job, key = paint.job, Key(paint.job.id, paint.image)
        # First of all: if the process dies of this image, nobody must try it again.
        self._send(Started(*key, self._clock()))
        try:
            text = self._encode(job.prompt)
            negative = (
                self._encode(job.negative_prompt, negative=True) if job.negative_prompt else None
            )
            sequence = self._engine.prepare(text, negative, job, job.seeds[key.image])
        except Exception as error:
            self._fail_batch([key], error)
            return
        self._images[key] = _Image(
            job, sequence, preview_scales(self._engine.num_scales, job.partial_images)
        )
        self._scheduler.add(key, job.deadline)
        tokens = text.num_tokens + (negative.num_tokens if negative is not None else 0)
        self._send(TextRead(job.id, tokens, text_warnings(text, negative)))

    def _encode_anew(self, prompt: str, *, negative: bool = False) -> TextT:
        started = self._clock()
        text = self._engine.encode(prompt, negative=negative)
        self._send(Timing("text_encode", self._clock() - started, 1))
        return text

    def _sequences(self, keys: Sequence[Key]) -> list[SequenceT]:
        return [self._images[key].sequence for key in keys]

    def _fail_batch(self, keys: Sequence[Key], error: Exception) -> None:
        """Fail the jobs of these images and no others."""
        job_ids = sorted({key.job_id for key in keys})
        diagnosis = self._engine.diagnose(error)
        self._log.error("batch failed", jobs=job_ids, diagnosis=diagnosis, exc_info=error)
        code: FailureCode = "out_of_memory" if diagnosis == "out_of_memory" else "internal_error"
        message = (
            "The images of this batch did not fit in the device's memory; try again with a smaller n."
            if code == "out_of_memory"
            else f"The engine failed while it worked on this request ({type(error).__name__})."
        )
        for job_id in job_ids:
            self._fail(job_id, code, message)
        if diagnosis == "fatal":
            raise error

    def _fail(self, job_id: str, code: FailureCode, message: str) -> None:
        self._drop(job_id)
        self._send(Failed(job_id, code, message))

    def _drop(self, job_id: str) -> None:
        """Forget a job and free its slots."""
        self._scheduler.remove(job_id)
        self._arrivals = deque(paint for paint in self._arrivals if paint.job.id != job_id)
        for key in [key for key in self._images if key.job_id == job_id]:
            self._previews.pop(key, None)
            self._engine.release(self._images.pop(key).sequence)

    def _observe(self, idle: bool) -> Heartbeat:
        """The loop's state, in one object that another thread may read at any time."""
        now = self._clock()
        slots_in_use = self._engine.total_slots - self._engine.free_slots
        return Heartbeat(at=now, turned_at=now, idle=idle, slots_in_use=slots_in_use)


def text_warnings(prompt: Text, negative: Text | None) -> tuple[str, ...]:
    """What the caller should know of how the text was read, in sentences."""
    warnings = [
        f"The {name} is longer than the text encoder reads; this end of it was left out: {text.truncated!r}"
        for name, text in (("prompt", prompt), ("negative_prompt", negative))
        if text is not None and text.truncated
    ]
    if prompt.read_as:
        warnings.insert(
            0,
            f"The model knows only a few things, and drew the nearest to this prompt: {prompt.read_as!r}",
        )
    return tuple(warnings)
