"""A worker process that runs a fake engine which a test can stop anywhere; everything around the engine is real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from server.messages import FromWorker, Loading, ModelInfo, Pixels
from server.model_settings import WorkerSettings
from server.worker.main import worker_main
from server.worker.pending import Pending
from server.worker.scheduler import Policy, token_shares
from tests.faults.control import Control
from tests.server.fakes import MODEL, PATCH_NUMS, FakeEngine, FakeSequence, FakeText

MIDDLE, LAST = 4, len(PATCH_NUMS) - 1


@dataclass
class SlowEngine(FakeEngine):
    """A fake engine that comes to the points of a :class:`Control`."""

    control: Control | None = None

    def encode(self, prompt: str, *, literal: bool = False) -> FakeText:
        assert self.control is not None
        self.control.reach("encode")
        return super().encode(prompt, literal=literal)

    def step(self, sequences: Sequence[FakeSequence]) -> Pending[None]:
        assert self.control is not None
        if sequences[0].scale == MIDDLE:
            self.control.reach("paint")
        if sequences[0].scale == LAST:
            self.control.reach("stream")
        return super().step(sequences)

    def finish(self, sequences: Sequence[FakeSequence]) -> Pending[list[Pixels]]:
        assert self.control is not None
        self.control.reach("decode")
        return super().finish(sequences)


def load_slow_engine(
    settings: WorkerSettings, index: int, send: Callable[[FromWorker], None]
) -> tuple[SlowEngine, ModelInfo, Policy]:
    """Load no model: ``settings.model`` is the directory of a :class:`Control`."""
    control = Control(Path(settings.model))
    send(Loading("warming"))
    control.reach("load")
    engine = SlowEngine(slots=settings.slots, control=control)
    model = replace(MODEL, slots=settings.slots, image_size=32, seconds_per_image=0.01)
    return engine, model, Policy(token_shares(PATCH_NUMS), settings.slots)


def run_slow_worker(connection: Connection, settings: WorkerSettings, index: int) -> None:
    """Run a worker; called in the child process."""
    worker_main(connection, settings, index, load_slow_engine)
