"""The main loop of the worker: receive, schedule, step, publish.

It drives any :class:`server.worker.engine_protocol.SteppingEngine`, so tests run it in a thread with a fake one.

**Async scheduling.** A GPU is given work and does it later. The work of one turn of the loop, a step and what has to
be decoded after it, is awaited only after the work of the next turn has been queued: so the GPU never idles while the
loop schedules or hands pixels on. More than one turn ahead would gain nothing and make newcomers wait. On a CPU the
work is done when the call returns.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Generic

import structlog

from server.messages import (
    Accept,
    Cancel,
    Failed,
    FailureCode,
    Freed,
    FromWorker,
    Heartbeat,
    Job,
    Key,
    Paint,
    Painted,
    Pixels,
    Preview,
    PromptEncoded,
    PromptRead,
    ReadPrompt,
    Shutdown,
    Stage,
    Started,
    Timing,
    ToWorker,
    Withdraw,
    Withdrawn,
)
from server.worker.engine_protocol import SequenceT, SteppingEngine, TextT
from server.worker.pending import InFlight, Pending
from server.worker.scheduler import Scheduler
from server.worker.text_warnings import text_warnings
from star_model.errors import UnknownThingError
from star_model.reading import Reading


def preview_scales(sides: Sequence[int], previews: int) -> tuple[int, ...]:
    """Return after how many scales each preview is due.

    They are spread over the scales at which something can be seen: the first of each side, from a quarter of the last
    side on. Coarser ones show a smear, and later ones of a side little that is new. Where these are too few, coarser
    ones are taken too.

    Args:
        sides: longer side of each scale's token map, coarsest first; none is smaller than the one before.
        previews: that are wanted.

    >>> preview_scales((1, 2, 4, 8, 16, 16, 16), 2)
    (3, 4)
    """
    new = [s for s in range(1, len(sides)) if s == 1 or sides[s - 1] > sides[s - 2]]
    clear = [s for s in new if 4 * sides[s - 1] >= sides[-1]]
    if previews >= len(clear):
        return tuple(new[-previews:]) if previews else ()
    places = (i * (len(clear) + 1) // (previews + 1) for i in range(1, previews + 1))
    return tuple(clear[place - 1] for place in places)


class EngineLoop(Generic[TextT, SequenceT]):
    """Runs jobs on an engine until told to shut down.

    Args:
        engine: holds the images in flight and advances them.
        scheduler: chooses the images that step next.
        inbox: messages for this loop.
        publish: takes each message from the loop; called from this thread alone.
        clock: seconds, monotonic, shared with the parent process.
        text_cache: encoded prompts kept.

    Attributes:
        state: heartbeat of the loop, replaced as a whole, so any thread may read it at any time.
    """

    def __init__(
        self,
        engine: SteppingEngine[TextT, SequenceT],
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
        self._publish = publish
        self._clock = clock
        # Prompts are encoded one at a time: in a batch, padding would change the low bits, and with them images
        # that a seed promises.
        self._encode = lru_cache(maxsize=text_cache)(self._encode_anew)
        self._jobs: dict[str, Job] = {}
        self._traced: set[str] = set()  # jobs of which a trace is recorded
        self._arrivals: deque[Key] = deque()  # images without a slot yet
        self._sequences: dict[Key, SequenceT] = {}
        self._previews: dict[Key, int] = {}  # images with a preview due, and its index
        self._in_flight = InFlight(clock)
        self._log = structlog.get_logger("star.worker")
        self._observe(idle=True)

    def run(self) -> None:
        """Work until a :class:`Shutdown` comes.

        Raises:
            Exception: an error after which the process cannot recover; its jobs have been failed.
        """
        while self._receive():
            batch = self._schedule()
            before = self._in_flight.started
            stepped = self._step(batch)
            self._decode_finished(stepped)
            self._decode_previews(stepped)
            self._in_flight.drain(keep=self._in_flight.started - before if stepped else 0)

    def _receive(self) -> bool:
        """Take all messages that have come, waiting when there is nothing else to do; false means stop."""
        idle = not self._sequences and not self._arrivals and not self._in_flight
        self._observe(idle)
        while True:
            try:
                message = self._inbox.get(block=idle)
            except queue.Empty:
                self._observe(
                    idle=False
                )  # before anything that may take long, such as a prompt to encode
                return True
            idle = False
            match message:
                case Accept(job):
                    self._jobs[job.id] = job
                    if job.trace_id:
                        self._traced.add(job.id)
                case Paint(job_id, image):
                    if job_id in self._jobs:  # else it has failed meanwhile
                        self._arrivals.append(Key(job_id, image))
                case Withdraw(job_id, image):
                    self._withdraw(Key(job_id, image))
                case Cancel(job_id):
                    self._drop(job_id)
                case ReadPrompt(number, prompt):
                    self._observe(idle)  # to read it may take long too
                    self._publish(PromptRead(number, self._read(prompt)))
                case Shutdown():
                    return False

    def _schedule(self) -> tuple[Key, ...]:
        """Prepare arrivals and choose the batch."""
        self._prepare_arrivals()
        self._observe(idle=False)
        return self._scheduler.next_batch(
            {k: s.scale for k, s in self._sequences.items()},
            {k: s.shape for k, s in self._sequences.items()},
        )

    def _prepare_arrivals(self) -> None:
        """Prepare arrivals of the highest class; beside others in flight, at most one new prompt or edit per turn."""
        others = bool(self._sequences)
        while self._arrivals and self._engine.free_slots:
            encoded = self._encode.cache_info().misses
            key = min(self._arrivals, key=self._class_of)  # the earliest of those
            if not self._in_highest_class(key):
                break
            self._arrivals.remove(key)
            job = self._jobs[key.job_id]
            self._prepare(key, job)
            if others and (job.edit is not None or self._encode.cache_info().misses > encoded):
                break

    def _class_of(self, key: Key) -> int:
        return self._jobs[key.job_id].priority

    def _in_highest_class(self, key: Key) -> bool:
        """Tell whether no image of a higher class is in flight."""
        return all(self._class_of(key) <= self._class_of(other) for other in self._sequences)

    def _prepare(self, key: Key, job: Job) -> None:
        """Encode the text and take a slot; a failure fails the job."""
        # First of all: if the process dies of this image, it must not be tried again.
        self._publish(Started(*key, self._clock()))
        try:
            text = self._text(key, job.prompt, literal=job.literal)
            negative = (
                self._text(key, job.negative_prompt, literal=True) if job.negative_prompt else None
            )
            started = self._clock()
            sequence = self._engine.prepare(text, negative, job, job.seeds[key.image])
        except UnknownThingError as error:
            self._drop(job.id)
            self._publish(Failed(job.id, "invalid_request_error", str(error)))
            return
        except Exception as error:
            self._fail_batch([key], error)
            return
        self._sequences[key] = sequence
        self._scheduler.add(key, job.tenant, job.priority)
        if job.edit is not None and job.id in self._traced:
            self._time("edit_encode", self._clock() - started, [key])
        tokens = text.num_tokens + (negative.num_tokens if negative is not None else 0)
        self._publish(PromptEncoded(job.id, tokens, text_warnings(text, negative)))

    def _read(self, prompt: str) -> Reading:
        """Read a prompt; where that fails it is taken as it stands, and its job will say why."""
        try:
            return self._engine.read(prompt)
        except Exception as error:
            self._log.error("a prompt could not be read", exc_info=error)
            return Reading(prompt)

    def _text(self, key: Key, prompt: str, *, literal: bool) -> TextT:
        """Return the encoded prompt of an image, from the cache if it is there."""
        encoded, started = self._encode.cache_info().misses, self._clock()
        text = self._encode(prompt, literal=literal)
        if self._encode.cache_info().misses > encoded:
            self._time("text_encode", self._clock() - started, [key])
        return text

    def _encode_anew(self, prompt: str, *, literal: bool) -> TextT:
        return self._engine.encode(prompt, literal=literal)

    def _time(self, stage: Stage, seconds: float, keys: Sequence[Key], scale: int = 0) -> None:
        """Publish how long a piece of work took that has just been done for these images."""
        of = self._traced
        images = tuple(key for key in keys if key.job_id in of) if of else ()
        self._publish(Timing(stage, seconds, len(keys), scale, self._clock(), images))

    def _step(self, batch: tuple[Key, ...]) -> tuple[Key, ...]:
        """Queue one step of the batch; return its images, or none if it failed."""
        if not batch:
            return ()
        scale, started = self._sequences[batch[0]].scale, self._clock()
        try:
            work = self._engine.step([self._sequences[key] for key in batch])
        except Exception as error:
            self._fail_batch(batch, error)
            return ()
        self._in_flight.begin(work, partial(self._settle_step, work, batch, scale, started))
        return tuple(key for key in batch if key in self._sequences)

    def _settle_step(
        self, work: Pending[None], batch: tuple[Key, ...], scale: int, started: float
    ) -> None:
        try:
            work.wait()
        except Exception as error:
            self._fail_batch(batch, error)
            return
        self._time("scale_step", self._in_flight.seconds_since(started), batch, scale)

    def _decode_finished(self, stepped: Sequence[Key]) -> None:
        """Decode images whose scales are all done; their slots are announced as free first."""
        finished = [k for k in stepped if self._sequences[k].scale >= self._scales_of(k)]
        for key in finished:  # before they are decoded, so that newcomers are here by the next turn
            self._scheduler.remove(key)
            self._previews.pop(key, None)
            self._publish(Freed(*key))
        self._decode("vae_decode", finished, self._engine.finish, self._publish_finished)

    def _publish_finished(self, key: Key, pixels: Pixels) -> None:
        del self._sequences[key]
        self._publish(Painted(*key, pixels))

    def _decode_previews(self, stepped: Sequence[Key]) -> None:
        """Decode previews that are due, of the highest class in flight; while other jobs wait, one per turn.

        A preview that has not been decoded when the next one of its image is due is left out.
        """
        for key in stepped:
            if key not in self._sequences:  # finished, or failed
                continue
            sides = self._engine.sides(self._sequences[key].shape)[: self._scales_of(key)]
            due = preview_scales(sides, self._jobs[key.job_id].partial_images)
            if (scale := self._sequences[key].scale) in due:
                self._previews[key] = due.index(scale)
        with_previews = {key.job_id for key in self._previews}
        others = self._arrivals or any(key.job_id not in with_previews for key in self._sequences)
        keys = list(filter(self._in_highest_class, self._previews))[: 1 if others else None]
        indices = {key: self._previews.pop(key) for key in keys}

        def publish(key: Key, pixels: Pixels) -> None:
            self._publish(Preview(*key, indices[key], pixels))

        shapes = {key: self._sequences[key].shape for key in keys}
        for shape in sorted(set(shapes.values())):
            alike = [key for key in keys if shapes[key] == shape]
            self._decode("preview_decode", alike, self._engine.preview, publish)

    def _scales_of(self, key: Key) -> int:
        """Scales that an image is painted at: all, but those that a draft leaves out."""
        return self._engine.num_scales - self._jobs[key.job_id].sampling.draft

    def _decode(
        self,
        stage: Stage,
        keys: Sequence[Key],
        decode: Callable[[Sequence[SequenceT]], Pending[list[Pixels]]],
        publish: Callable[[Key, Pixels], None],
    ) -> None:
        if not keys:
            return
        started = self._clock()
        try:
            work = decode([self._sequences[key] for key in keys])
        except Exception as error:
            self._fail_batch(keys, error)
            return
        settle = partial(self._settle_decode, work, stage, keys, publish, started)
        self._in_flight.begin(work, settle)

    def _settle_decode(
        self,
        work: Pending[list[Pixels]],
        stage: Stage,
        keys: Sequence[Key],
        publish: Callable[[Key, Pixels], None],
        started: float,
    ) -> None:
        try:
            images = work.wait()
        except Exception as error:
            self._fail_batch(keys, error)
            return
        self._time(stage, self._in_flight.seconds_since(started), keys)
        for key, pixels in zip(keys, images, strict=True):
            if key in self._sequences:  # else its job was cancelled meanwhile
                publish(key, pixels)

    def _fail_batch(self, keys: Sequence[Key], error: Exception) -> None:
        """Fail the jobs of these images and no others."""
        job_ids = sorted({key.job_id for key in keys})
        diagnosis = self._engine.diagnose(error)
        traces = [self._jobs[job_id].trace_id for job_id in job_ids if job_id in self._traced]
        log = self._log.bind(trace_ids=traces) if traces else self._log
        log.error("batch failed", jobs=job_ids, diagnosis=diagnosis, exc_info=error)
        code: FailureCode = "out_of_memory" if diagnosis == "out_of_memory" else "internal_error"
        message = (
            "The images of this batch did not fit in the device's memory; try again with a smaller n."
            if code == "out_of_memory"
            else f"The engine failed while it worked on this request ({type(error).__name__})."
        )
        for job_id in job_ids:
            self._drop(job_id)
            self._publish(Failed(job_id, code, message))
        if diagnosis == "fatal":
            raise error

    def _drop(self, job_id: str) -> None:
        """Forget a job and free its slots."""
        self._jobs.pop(job_id, None)
        self._traced.discard(job_id)
        self._arrivals = deque(key for key in self._arrivals if key.job_id != job_id)
        for key in [key for key in self._sequences if key.job_id == job_id]:
            self._forget(key)

    def _withdraw(self, key: Key) -> None:
        """Give an image back that has no slot yet or is not finished; else what follows from that is on its way."""
        if key in self._arrivals:
            self._arrivals.remove(key)
        elif key in self._sequences and self._sequences[key].scale < self._scales_of(key):
            self._forget(key)
        else:
            return
        self._publish(Withdrawn(*key))

    def _forget(self, key: Key) -> None:
        """Free the slot of an image in flight."""
        self._scheduler.remove(key)
        self._previews.pop(key, None)
        self._engine.release(self._sequences.pop(key))

    def _observe(self, idle: bool) -> None:
        slots_in_use = self._engine.total_slots - self._engine.free_slots
        self.state = Heartbeat(turned_at=self._clock(), idle=idle, slots_in_use=slots_in_use)
