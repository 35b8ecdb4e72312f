"""This server, whole, with an engine that keeps a log: ``python -m benchmarks.peers.star_server PORT ENGINE LOG``.

The worker's main loop, the dispatcher and the API are those of ``star-server serve`` with its default settings; the log
is written around the engine. The one module of the benchmarks that imports the server.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

from benchmarks.peers.painters import (
    SLEEPER,
    PaintLog,
    SleepingDevice,
    SleepingModel,
    sleep_until,
    sleeping_model,
)
from server.commands.serve import serve
from server.messages import Devices, Job, ModelInfo, Pixels
from server.model_settings import WorkerSettings
from server.settings import Settings
from server.worker.engine_protocol import Diagnosis, SteppingEngine
from server.worker.main import Send, load_model_engine, worker_main
from server.worker.pending import Pending
from server.worker.scheduler import Policy, resolve_max_step, token_shares
from star_model.reading import Reading
from star_model.sampling import Sampling

T = TypeVar("T")


@dataclass(frozen=True)
class Until(Generic[T]):
    """Work of a sleeping device that ends at a known moment of ``time.monotonic()``."""

    ends_at: float
    result: T

    @property
    def done(self) -> bool:
        return time.monotonic() >= self.ends_at

    def wait(self) -> T:
        sleep_until(self.ends_at)
        return self.result


@dataclass(frozen=True)
class ReadText:
    """A prompt, all of which the model has understood."""

    truncated: str = ""
    notes: tuple[str, ...] = ()
    num_tokens: int = 8


@dataclass(eq=False)
class SleepingSequence:
    """An image in flight."""

    seed: int
    scale: int = 0
    shape: int = 0
    released: bool = False


class SleepingEngine:
    """The sleeping model, scale by scale.

    Args:
        model: says how long it takes.
        slots: number of images in flight at most.
    """

    def __init__(self, model: SleepingModel, slots: int) -> None:
        self.model = model
        self.num_scales = len(self.model.config.schedule)
        self.total_slots = self.free_slots = slots
        self._device = SleepingDevice()

    def sides(self, shape: int) -> Sequence[int]:
        return [max(size) for size in self.model.config.schedules[shape].sizes]

    def read(self, prompt: str) -> Reading:
        return Reading(prompt)

    def encode(self, prompt: str, *, literal: bool = False) -> ReadText:
        return ReadText()

    def prepare(
        self, text: ReadText, negative: ReadText | None, job: Job, seed: int
    ) -> SleepingSequence:
        self.free_slots -= 1
        return SleepingSequence(seed)

    def step(self, sequences: Sequence[SleepingSequence]) -> Pending[None]:
        seconds = self.model.step(sequences[0].scale, len(sequences))
        for sequence in sequences:
            sequence.scale += 1
        return Until(self._device.queue(seconds)[1], None)

    def preview(self, sequences: Sequence[SleepingSequence]) -> Pending[list[Pixels]]:
        images = [self.model.draw(sequence.seed) for sequence in sequences]
        pixels = [Pixels(image.width, image.height, image.tobytes()) for image in images]
        return Until(self._device.queue(self.model.decode(len(sequences)))[1], pixels)

    def finish(self, sequences: Sequence[SleepingSequence]) -> Pending[list[Pixels]]:
        for sequence in sequences:
            self.release(sequence)
        return self.preview(sequences)

    def release(self, sequence: SleepingSequence) -> None:
        if not sequence.released:
            sequence.released = True
            self.free_slots += 1

    def memory(self) -> tuple[int, int]:
        return 0, 0

    def diagnose(self, error: Exception) -> Diagnosis:
        return "error"


@dataclass(frozen=True)
class Noting(Generic[T]):
    """Work of an engine, with something to note once it is done."""

    work: Pending[T]
    note: Callable[[], None]

    @property
    def done(self) -> bool:
        return self.work.done

    def wait(self) -> T:
        result = self.work.wait()
        self.note()
        return result


class LoggedEngine:
    """An engine whose images are noted when they begin and when they are finished.

    Args:
        engine: any other.
        log: takes the notes.
    """

    def __init__(self, engine: SteppingEngine[Any, Any], log: PaintLog) -> None:
        self._engine = engine
        self._log = log
        self._seeds: dict[int, int] = {}  # by the identity of a sequence in flight

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def prepare(self, text: Any, negative: Any, job: Job, seed: int) -> Any:
        self._log.began([seed], time.monotonic())
        sequence = self._engine.prepare(text, negative, job, seed)
        self._seeds[id(sequence)] = seed
        return sequence

    def finish(self, sequences: Sequence[Any]) -> Pending[list[Pixels]]:
        seeds = [self._seeds.pop(id(sequence)) for sequence in sequences]
        return Noting(
            self._engine.finish(sequences),
            lambda: self._log.painted(seeds, time.monotonic()),
        )

    def release(self, sequence: Any) -> None:
        self._seeds.pop(id(sequence), None)
        self._engine.release(sequence)


def load_sleeping_engine(
    model: SleepingModel, settings: WorkerSettings, send: Send
) -> tuple[SteppingEngine[Any, Any], ModelInfo, Policy]:
    """Return the sleeping engine, and what the server needs to know of it."""
    send(Devices(1))
    engine = SleepingEngine(model, settings.slots)
    config = model.config
    max_step = resolve_max_step(settings.max_step, "fast")
    shares = token_shares(config.patch_nums)
    policy = Policy(shares, settings.largest_batch, max_step)
    info = ModelInfo(
        name=SLEEPER,
        image_size=config.image_size,
        patch_nums=tuple(config.patch_nums),
        parameters=0,
        sampling=Sampling.model_validate(config.sampling.model_dump()),
        slots=settings.slots,
        device="cuda",
        dtype="bfloat16",
        mode="fast",
        seconds_per_image=model.seconds(1),
    )
    return engine, info, policy


def load_logged_engine(
    settings: WorkerSettings, index: int, send: Send, *, engine: str, log: Path
) -> tuple[SteppingEngine[Any, Any], ModelInfo, Policy]:
    """Return the engine of that name, and note in ``log`` what it paints; a :data:`server.worker.main.Load`."""
    model = sleeping_model(engine)
    loaded, info, policy = (
        load_sleeping_engine(model, settings, send)
        if model
        else load_model_engine(settings, index, send)
    )
    return LoggedEngine(loaded, PaintLog(log)), info, policy


def run_logged_worker(
    connection: Connection, settings: WorkerSettings, index: int, *, engine: str, log: Path
) -> None:
    """Run a worker with the engine of that name; a :data:`server.dispatch.worker_process.Run`."""
    worker_main(connection, settings, index, partial(load_logged_engine, engine=engine, log=log))


def main(port: str, engine: str, log: str) -> None:
    """Serve."""
    model = {} if sleeping_model(engine) else {"model": engine}
    settings = Settings(
        host="127.0.0.1",
        port=int(port),
        device="cpu",
        log_level="error",
        **model,  # type: ignore[arg-type]
    )
    serve(settings, partial(run_logged_worker, engine=engine, log=Path(log)))


if __name__ == "__main__":
    main(*sys.argv[1:])
