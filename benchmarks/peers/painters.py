"""The engine that every contender serves: whole batches of requests in, pixels out, and a log of what was painted.

:func:`open_painter` gives each of them the same object: the real model, or a stand-in that sleeps as long as the model
would take on a GPU by the cost model, so that batching is worth as much as there.
"""

from __future__ import annotations

import math
import os
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from server.commands.capacity import CountedTimes
from star_model.config import ModelConfig
from star_model.cost import DEVICES
from star_model.families.registry import PRESETS

SLEEPING = "sleeping"
"""Name of the engine that sleeps; any other is that of a model. ``sleeping:4`` takes four times as long."""

SLEEPER, GPU, SHARE_OF_FLOOR = "star-512", "h200", 0.5
"""What the sleeping engine stands for: as ``star-server plan`` assumes by default."""

SIDE = 64
"""Pixels of a sleeping engine's images: small, so that what is measured is not how fast this machine encodes files."""

MOST_TOGETHER = 8
"""Images in a batch, or in flight, at most: the slots of this server by default."""


class Request(NamedTuple):
    """What a client asks for."""

    prompt: str
    seed: int


class PaintLog:
    """Times at which images were begun and finished, on the clock that all processes of a machine share.

    Args:
        path: a file to append to; processes may share it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def began(self, seeds: Sequence[int], at: float) -> None:
        """Note that these images left the queue at ``at``."""
        self._write("began", seeds, at)

    def painted(self, seeds: Sequence[int], at: float) -> None:
        """Note that these images were finished at ``at``."""
        self._write("painted", seeds, at)

    def _write(self, event: str, seeds: Sequence[int], at: float) -> None:
        lines = "".join(f"{event} {seed} {at:.6f}\n" for seed in seeds)
        os.write(self._file, lines.encode())


def read_log(path: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Return when each seed was begun, and when it was painted, on ``time.monotonic()``."""
    times: dict[str, dict[int, float]] = {"began": {}, "painted": {}}
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        event, seed, at = line.split()
        times[event][int(seed)] = float(at)
    return times["began"], times["painted"]


class Painter(Protocol):
    """An engine that paints whole batches."""

    def paint(self, requests: Sequence[Request]) -> list[Image.Image]:
        """Paint images from start to end, all together; any thread may call it."""
        ...


class SleepingDevice:
    """A device that does one piece of work after the other, as a GPU does, by letting time pass.

    Work begins when it has been queued and all before it has ended, however late the host looks.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ends_at = float("-inf")

    def queue(self, seconds: float) -> tuple[float, float]:
        """Queue work that takes ``seconds``; return when it begins and ends."""
        with self._lock:
            begins_at = max(self._clock(), self._ends_at)
            self._ends_at = begins_at + seconds
            return begins_at, self._ends_at


def sleep_until(moment: float) -> None:
    """Wait for a moment of ``time.monotonic()``."""
    time.sleep(max(0.0, moment - time.monotonic()))


class SleepingModel:
    """Durations of a model's operations on a GPU, and its images: the colour of a seed.

    Args:
        slower: what all durations are multiplied by. On a machine that others use too, what they do then counts less.

    Attributes:
        config: of the model that it stands for.
    """

    def __init__(self, slower: float = 1.0) -> None:
        self.config: ModelConfig = PRESETS[SLEEPER]
        self._times = CountedTimes(self.config, DEVICES[GPU], SHARE_OF_FLOOR)
        self._slower = slower

    def step(self, scale: int, batch: int) -> float:
        """Return the seconds of a step of ``batch`` images at a scale."""
        return self._slower * self._times.step([scale] * batch)

    def decode(self, batch: int) -> float:
        """Return the seconds that decoding ``batch`` images takes."""
        return self._slower * self._times.decode(batch)

    def seconds(self, batch: int) -> float:
        """Return how long ``batch`` images take together, from the first scale to pixels."""
        scales = range(len(self.config.schedule))
        return sum(self.step(scale, batch) for scale in scales) + self.decode(batch)

    def draw(self, seed: int) -> Image.Image:
        """Return the image of a seed."""
        return Image.new("RGB", (SIDE, SIDE), (seed % 256, seed // 256 % 256, 128))


class SleepingPainter:
    """A :class:`Painter` on a sleeping device.

    Args:
        model: says how long it takes.
        log: of what it paints.
    """

    def __init__(self, model: SleepingModel, log: PaintLog) -> None:
        self._model = model
        self._device = SleepingDevice()
        self._log = log

    def paint(self, requests: Sequence[Request]) -> list[Image.Image]:
        seeds = [request.seed for request in requests]
        begins_at, ends_at = self._device.queue(self._model.seconds(len(requests)))
        self._log.began(seeds, begins_at)
        sleep_until(ends_at)
        self._log.painted(seeds, ends_at)
        return [self._model.draw(seed) for seed in seeds]


class ModelPainter:
    """A :class:`Painter` around the real engine, in the mode and the types that this server chooses on a CPU.

    Args:
        name: of the model, or its directory.
        log: of what it paints.
    """

    def __init__(self, name: str, log: PaintLog) -> None:
        from star_model import Engine, load_model, resolve_model
        from star_model.host_memory import keep_freed_memory

        keep_freed_memory()
        self._model = load_model(resolve_model(name), device="cpu", dtype="auto")
        self._engine = Engine(self._model, slots=MOST_TOGETHER, mode="deterministic")
        self._lock = threading.Lock()  # the engine's slots are not for several threads
        self._log = log

    def paint(self, requests: Sequence[Request]) -> list[Image.Image]:
        engine, seeds = self._engine, [request.seed for request in requests]
        with self._lock:
            self._log.began(seeds, time.monotonic())
            sequences = [
                engine.prepare(
                    self._model.encode_prompt(request.prompt),
                    self._model.sampling_defaults,
                    seed=request.seed,
                )
                for request in requests
            ]
            for _ in range(engine.num_scales):
                engine.step(sequences)
            pixels = engine.finish(sequences).cpu().numpy()
            self._log.painted(seeds, time.monotonic())
        return [Image.fromarray(image) for image in pixels]


def sleeping_model(engine: str) -> SleepingModel | None:
    """Return the model of a sleeping engine; None if ``engine`` names a real one.

    Raises:
        ValueError: what follows the colon is not a positive number.
    """
    name, _, slower = engine.partition(":")
    if name != SLEEPING:
        return None
    try:
        factor = float(slower or 1)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ValueError(
            f"{engine}: a positive number must follow {SLEEPING}:, such as {SLEEPING}:4"
        )
    return SleepingModel(factor)


def open_painter(engine: str, log: Path) -> Painter:
    """Return the engine of a contender.

    Args:
        engine: ``sleeping``, ``sleeping:FACTOR``, or the name of a model.
        log: file that takes what is painted.
    """
    model = sleeping_model(engine)
    return SleepingPainter(model, PaintLog(log)) if model else ModelPainter(engine, PaintLog(log))


def png(image: Image.Image) -> bytes:
    """Return the image as a PNG file, compressed as this server does, so that encoding makes no difference."""
    file = BytesIO()
    image.save(file, "PNG", compress_type=zlib.Z_RLE)
    return file.getvalue()
