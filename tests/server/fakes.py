"""An engine without a model, and a worker without a process, for tests of everything around them."""

from __future__ import annotations

import io
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from server.messages import (
    Devices,
    Exited,
    FromWorker,
    Heartbeat,
    Job,
    LoadFailed,
    Loading,
    ModelInfo,
    Pixels,
    Ready,
    Shutdown,
    ToWorker,
)
from server.worker.engine_loop import EngineLoop
from server.worker.engine_protocol import Diagnosis
from server.worker.pending import Done, Pending
from server.worker.scheduler import Policy, Scheduler, token_shares
from star_model.errors import UnknownThingError
from star_model.gallery import GalleryPicture
from star_model.reading import Reading
from star_model.sampling import Sampling
from star_model.vocabulary import Vocabulary

PATCH_NUMS = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
WINDOW = 40  # words that the fake text encoder reads


@dataclass(frozen=True)
class FakeText:
    prompt: str
    notes: tuple[str, ...] = ()

    @property
    def truncated(self) -> str:
        return " ".join(self.prompt.split()[WINDOW:])

    @property
    def num_tokens(self) -> int:
        return min(len(self.prompt.split()), WINDOW)


@dataclass(eq=False)
class FakeSequence:
    text: FakeText
    job: Job
    seed: int
    slot: int | None
    scale: int = 0

    @property
    def shape(self) -> int:
        return self.job.shape


@dataclass(frozen=True)
class Step:
    """One recorded call of ``step``."""

    scale: int
    seeds: tuple[int, ...]


NO_PEOPLE = "The model draws no people."
NOTE = 'The model knows nothing like "woman"; "a fox" is drawn instead.'
SUGGESTIONS = ("a fox", "an owl", "a car")
VOCABULARY = Vocabulary(
    {"a fox": ("a vixen",), "an owl": (), "a car": ()},
    ("a", "fox", "owl", "car"),
    ("flat", "3d"),
    ("blue", "red"),
    {"forest": ("in a forest",)},
    {"animal": ("a fox", "an owl")},
)


class Killed(BaseException):
    """Ends the thread of a worker that is killed."""


@dataclass
class FakeEngine:
    """Paints the seed and the scale; records every step; breaks on request.

    A prompt that contains ``explode`` fails its step, ``oom`` runs out of memory, ``fatal`` breaks the
    engine, ``unreadable`` cannot be encoded. Of a ``woman`` it knows nothing, and a ``wolf`` is a fox to it.
    """

    slots: int = 8
    num_scales: int = len(PATCH_NUMS)
    step_seconds: float = 0.0
    on_step: Callable[[Step], None] | None = None
    steps: list[Step] = field(default_factory=list)
    encoded: list[str] = field(default_factory=list)
    released: int = 0
    killed: bool = False
    vocabulary: Vocabulary | None = None
    gallery: tuple[GalleryPicture, ...] = ()
    gate: threading.Event = field(default_factory=threading.Event)
    _free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()
        self._free = list(range(self.slots))

    @property
    def total_slots(self) -> int:
        return self.slots

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def sides(self, shape: int) -> Sequence[int]:
        return PATCH_NUMS[: self.num_scales]

    def encode(self, prompt: str, *, literal: bool = False) -> FakeText:
        if "unreadable" in prompt:
            raise ValueError(prompt)
        if not literal and (refused := self.read(prompt).refused):
            raise UnknownThingError(f'star-fake cannot draw "muslim". {refused}')
        self.encoded.append(prompt)
        return FakeText(prompt, notes=() if literal else self.read(prompt).notes)

    def read(self, prompt: str) -> Reading:
        if "muslim" in prompt:
            return Reading(
                "a fox",
                unknown="muslim",
                suggestions=SUGGESTIONS,
                refused=NO_PEOPLE,
                notes=(NO_PEOPLE,),
            )
        if "woman" in prompt:
            return Reading(
                "a fox", ("a fox",), unknown="woman", suggestions=SUGGESTIONS, notes=(NOTE,)
            )
        if "wolf" in prompt:
            return Reading("a fox", ("a fox",), notes=('"wolf" is drawn as "a fox".',))
        return Reading(prompt)

    def prepare(
        self, text: FakeText, negative: FakeText | None, job: Job, seed: int
    ) -> FakeSequence:
        return FakeSequence(text, job, seed, self._free.pop())

    def step(self, sequences: Sequence[FakeSequence]) -> Pending[None]:
        scales = {s.scale for s in sequences}
        assert len(scales) == 1, f"a step over scales {scales}"
        assert len({s.shape for s in sequences}) == 1, "a step over several shapes"
        assert all(s.slot is not None and s.scale < self.num_scales for s in sequences)
        assert len({id(s) for s in sequences}) == len(sequences), "one sequence twice in a step"
        step = Step(scales.pop(), tuple(s.seed for s in sequences))
        self.steps.append(step)
        if self.on_step is not None:
            self.on_step(step)
        self.gate.wait()
        if self.killed:
            raise Killed
        if self.step_seconds:
            time.sleep(self.step_seconds)
        prompts = " ".join(s.job.prompt for s in sequences)
        for word, error in (
            ("explode", RuntimeError),
            ("oom", MemoryError),
            ("fatal", SystemError),
        ):
            if word in prompts:
                raise error(word)
        for sequence in sequences:
            sequence.scale += 1
        return Done(None)

    def preview(self, sequences: Sequence[FakeSequence]) -> Pending[list[Pixels]]:
        return Done([paint(s.seed, s.scale) for s in sequences])

    def finish(self, sequences: Sequence[FakeSequence]) -> Pending[list[Pixels]]:
        assert all(s.scale == self.num_scales - s.job.sampling.draft for s in sequences)
        for sequence in sequences:
            self.release(sequence)
        return Done([paint(s.seed, s.scale) for s in sequences])

    def release(self, sequence: FakeSequence) -> None:
        if sequence.slot is not None:
            self._free.append(sequence.slot)
            sequence.slot = None
            self.released += 1

    def memory(self) -> tuple[int, int]:
        return 0, 0

    def diagnose(self, error: Exception) -> Diagnosis:
        kinds: dict[type[Exception], Diagnosis] = {
            MemoryError: "out_of_memory",
            SystemError: "fatal",
        }
        return kinds.get(type(error), "error")


def held_engine(slots: int = 8) -> FakeEngine:
    """An engine whose first step waits until its gate is opened."""
    engine = FakeEngine(slots)
    engine.gate.clear()
    return engine


def paint(seed: int, scale: int) -> Pixels:
    """The fake image of a seed after some scales: 8 x 8, one colour."""
    return Pixels(8, 8, bytes((seed % 256, seed // 256 % 256, scale * 20)) * 64)


MODEL = ModelInfo(
    name="star-fake",
    image_size=512,
    patch_nums=PATCH_NUMS,
    parameters=123,
    sampling=Sampling(guidance_scale=4.0, top_k=60, top_p=0.9),
    slots=8,
    device="cpu",
    dtype="float32",
    mode="deterministic",
    seconds_per_image=0.5,
)


def pictures(count: int = 3) -> tuple[GalleryPicture, ...]:
    """A gallery: a small picture for each of the first seeds."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "orange").save(file, "WEBP")
    return tuple(
        GalleryPicture(f"a fox number {seed}", seed, file.getvalue())
        for seed in range(1, count + 1)
    )


def make_job(name: str, seeds: Sequence[int] = (1,), **changes: Any) -> Job:
    """A job with defaults for what a test does not care about."""
    values: dict[str, Any] = {
        "prompt": "a red apple",
        "negative_prompt": "",
        "sampling": Sampling(guidance_scale=4.0, top_k=0, top_p=1.0),
        "partial_images": 0,
    }
    return Job(id=name, seeds=tuple(seeds), **(values | changes))


def make_loop(
    engine: FakeEngine,
    inbox: queue.SimpleQueue[ToWorker],
    publish: Callable[[FromWorker], None],
    clock: Callable[[], float] = time.monotonic,
) -> EngineLoop[FakeText, FakeSequence]:
    """The real main loop around a fake engine."""
    scheduler = Scheduler(Policy(token_shares(PATCH_NUMS), engine.slots))
    return EngineLoop(engine, scheduler, inbox, publish, clock=clock)


class ThreadWorker:
    """The worker's main loop in a thread of the test's process.

    Attributes:
        sent: every message that it was sent.
        loop: the main loop, once there is one.
    """

    def __init__(
        self,
        engine: FakeEngine,
        deliver: Callable[[FromWorker], None],
        load_error: str | None = None,
        loaded: threading.Event | None = None,
        devices: int = 1,
        name: str = "star-fake",
    ) -> None:
        self.engine = engine
        self._deliver = deliver
        self._load_error = load_error
        self._loaded = loaded
        self._devices = devices
        self._name = name
        self.inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self.sent: list[ToWorker] = []
        self.loop: EngineLoop[FakeText, FakeSequence] | None = None
        self._thread = threading.Thread(target=self._run, name="fake-worker", daemon=True)
        self._thread.start()

    def send(self, message: ToWorker) -> None:
        self.sent.append(message)
        self.inbox.put(message)

    def kill(self) -> None:
        self.engine.killed = True
        self.engine.gate.set()
        self.inbox.put(Shutdown())

    def join(self, timeout: float) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._deliver(Loading("loading"))
            self._deliver(Devices(self._devices))
            while self._loaded is not None and not self._loaded.wait(0.01):
                if self.engine.killed:
                    raise Killed
            if self._load_error is not None:
                self._deliver(LoadFailed(self._load_error))
                return
            self.loop = make_loop(self.engine, self.inbox, self._deliver)
            self._deliver(
                Ready(
                    replace(
                        MODEL,
                        name=self._name,
                        slots=self.engine.slots,
                        vocabulary=self.engine.vocabulary,
                        gallery=self.engine.gallery,
                    )
                )
            )
            self._deliver(Heartbeat(turned_at=time.monotonic(), idle=True))
            self.loop.run()
        except (Killed, SystemError):
            pass
        finally:
            killed = self.engine.killed
            self._deliver(Exited("SIGKILL" if killed else "exit code 0", killed))
