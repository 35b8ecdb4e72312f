"""The workers behind one queue: starts and supervises them, gives them images, and passes on what they report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import get_args

from prometheus_client import Counter

from server.dispatch.dispatcher import Dispatcher
from server.dispatch.readings import Readings
from server.dispatch.supervisor import Supervisor, SupervisorCallbacks
from server.dispatch.worker_process import Launch
from server.dispatch.worker_state import EndCause, Phase, WorkerEnd, WorkerPhase, WorkerState
from server.messages import (
    Accept,
    Cancel,
    Freed,
    Job,
    Key,
    LogFrom,
    ModelInfo,
    Paint,
    Painted,
    PromptRead,
    ReadPrompt,
    Started,
    Withdraw,
    Withdrawn,
    Work,
)
from server.model_metrics import ModelMetrics
from server.settings import Settings

_FURTHEST: tuple[WorkerPhase, ...] = (
    "ready", "warming", "capturing", "loading", "starting", "restarting", "failed", "stopped"
)  # fmt: skip
"""Of several workers, the one whose phase comes first here gives the phase of the service."""


@dataclass(frozen=True)
class PoolCallbacks:
    """Callbacks that a pool invokes, all on the event loop.

    Args:
        ready: when a worker is warm.
        lost: when a worker has ended, with the jobs lost with it, which must be removed.
        work: with the index of a worker, and what it says about jobs.
    """

    ready: Callable[[ModelInfo], None]
    lost: Callable[[list[str]], None]
    work: Callable[[int, Work], None]


class WorkerPool:
    """One worker per device, and one queue before them.

    Args:
        launch: starts a worker.
        settings: number of workers and their timeouts.
        callbacks: see :class:`PoolCallbacks`.
        metrics: where the workers are shown.
        clock: seconds, monotonic, shared with the workers.
        labels: of the workers in the log, beside their index.

    Attributes:
        supervisors: of the workers, by index.
        dispatcher: knows where each image is.
        readings: of prompts that nothing is painted of yet.
    """

    def __init__(
        self,
        launch: Launch,
        settings: Settings,
        callbacks: PoolCallbacks,
        metrics: ModelMetrics,
        clock: Callable[[], float],
        labels: Mapping[str, str | int] | None = None,
    ) -> None:
        self._launch = launch
        self._settings = settings
        self._callbacks = callbacks
        self._labels = metrics.labels if labels is None else labels
        self._metrics = metrics
        self._clock = clock
        self.dispatcher = Dispatcher()
        self.readings = Readings(self._ask)
        self.supervisors: list[Supervisor] = []
        self._down_since: float | None = None  # since when no worker is ready that was before
        for _ in range(settings.workers or 1):
            self._add()

    @property
    def phase(self) -> Phase:
        """Phase of the worker that is furthest in its life; ``restarting`` until one is ready again."""
        phase = self._furthest.phase
        down = self._down_since is not None and phase != "stopped"
        return "restarting" if down else phase

    @property
    def phase_since(self) -> float:
        """Time at which that phase began."""
        if self.phase == "restarting" and self._down_since is not None:
            return self._down_since
        return self._furthest.phase_since

    @property
    def states(self) -> list[WorkerState]:
        """All workers at this moment."""
        return [supervisor.state for supervisor in self.supervisors]

    @property
    def alive(self) -> bool:
        """True while all supervisors are running."""
        return all(supervisor.alive for supervisor in self.supervisors)

    @property
    def model(self) -> ModelInfo | None:
        """The loaded model, also while workers are restarted; None until the first load."""
        return next((s.model for s in self.supervisors if s.model is not None), None)

    @property
    def fatal(self) -> str | None:
        """Reason why nothing can be served at all: no worker has ever been able to load the model."""
        reasons = [supervisor.fatal for supervisor in self.supervisors]
        return reasons[0] if all(reasons) else None

    @property
    def complete(self) -> bool:
        """True while all workers are ready."""
        return all(supervisor.phase == "ready" for supervisor in self.supervisors)

    @property
    def failure(self) -> str | None:
        """Reason why one of the workers has never been able to load the model."""
        return next((s.fatal for s in self.supervisors if s.fatal is not None), None)

    @property
    def seconds_to_ready(self) -> float:
        """Seconds until one of the workers is likely to be ready."""
        return min(supervisor.seconds_to_ready for supervisor in self.supervisors)

    @property
    def slots(self) -> int:
        """Slots of the workers that are ready."""
        return self.dispatcher.slots

    def start(self) -> None:
        """Start the workers; returns before there is one."""
        for supervisor in list(self.supervisors):
            supervisor.start()

    async def close(self) -> None:
        """End the workers."""
        await asyncio.gather(*(supervisor.close() for supervisor in self.supervisors))

    def submit(self, job: Job) -> None:
        """Queue a job; its images go to workers as these have slots.

        Args:
            job: its id must be new.
        """
        self.dispatcher.submit(job)
        self._place()

    def remove(self, job_id: str) -> None:
        """Forget a job, finished or not; workers drop its images before their next step."""
        for worker in self.dispatcher.remove(job_id):
            self.supervisors[worker].send(Cancel(job_id))
        self._place()

    def log_from(self, level: str) -> None:
        """Tell all workers the lowest level to log."""
        for supervisor in self.supervisors:
            supervisor.send(LogFrom(level))

    def _ask(self, message: ReadPrompt) -> int | None:
        """Pass a question to a worker that is ready, to an idle one if there is one; return its index."""
        ready = [s for s in self.supervisors if s.phase == "ready"]
        if not ready:
            return None
        chosen = next((s for s in ready if s.beat is not None and s.beat.idle), ready[0])
        chosen.send(message)
        return chosen.index

    def _place(self) -> None:
        for worker, job, image, first in self.dispatcher.place():
            send = self.supervisors[worker].send
            if first:  # the job, an edited image included, crosses to a worker once
                send(Accept(job))
            send(Paint(job.id, image))
        for worker, key in self.dispatcher.recall():
            self.supervisors[worker].send(Withdraw(*key))

    def _on_devices(self, count: int) -> None:
        while not self._settings.workers and len(self.supervisors) < count:
            self._add().start()

    def _on_ready(self, worker: int, model: ModelInfo) -> None:
        self._down_since = None
        self.dispatcher.open(worker, model.slots)
        self._callbacks.ready(model)
        self._place()

    def _on_ended(self, worker: int, end: WorkerEnd) -> None:
        self._exits(worker, end.cause).inc()

    def _on_lost(self, worker: int) -> None:
        self._restarts(worker).inc()
        if self._down_since is None and self._furthest.phase != "ready":
            self._down_since = self._clock()
        self.readings.lose(worker)
        self._callbacks.lost(self.dispatcher.close(worker))
        self._place()

    def _on_work(self, worker: int, message: Work | PromptRead) -> None:
        match message:
            case PromptRead():
                self.readings.settle(message)
                return
            case Started(job_id, image):
                self.dispatcher.begun(Key(job_id, image))
            case Freed(job_id, image):
                self.dispatcher.vacated(Key(job_id, image))
                self._place()
            case Withdrawn(job_id, image):
                self.dispatcher.withdrawn(Key(job_id, image))
                self._place()
            case Painted(job_id, image):
                self.dispatcher.painted(Key(job_id, image))
                self._images(worker).inc()
        self._callbacks.work(worker, message)

    def _add(self) -> Supervisor:
        index = len(self.supervisors)
        callbacks = SupervisorCallbacks(
            devices=self._on_devices,
            ready=partial(self._on_ready, index),
            ended=partial(self._on_ended, index),
            lost=partial(self._on_lost, index),
            work=partial(self._on_work, index),
        )
        supervisor = Supervisor(
            index, self._launch, self._settings, callbacks, self._clock, self._labels
        )
        self.supervisors.append(supervisor)
        self._watch(supervisor)
        return supervisor

    def _watch(self, supervisor: Supervisor) -> None:
        """Show a worker in the metrics."""

        def beat(name: str) -> Callable[[], float]:
            return lambda: float(getattr(supervisor.beat, name, 0))

        gauges: dict[str, Callable[[], float]] = {
            "slots_in_use": beat("slots_in_use"),
            "slots_total": lambda: supervisor.model.slots if supervisor.model is not None else 0,
            "engine_up": lambda: supervisor.phase == "ready",
            "engine_heartbeat_age_seconds": lambda: self._clock() - supervisor.heard_at,
            "gpu_memory_allocated_bytes": beat("memory_allocated"),
            "gpu_memory_reserved_bytes": beat("memory_reserved"),
        }
        worker = str(supervisor.index)
        for name, value in gauges.items():
            self._metrics.watch(name, value, worker=worker)
        for phase in get_args(WorkerPhase):
            self._metrics.watch(
                "engine_phase", partial(_in_phase, supervisor, phase), worker=worker, phase=phase
            )
        for cause in get_args(EndCause):
            self._exits(supervisor.index, cause)
        self._images(supervisor.index)  # so that it is 0 before the first image, not absent
        self._restarts(supervisor.index)

    def _images(self, worker: int) -> Counter:
        return self._metrics.labelled(self._metrics.service.images, worker=str(worker))

    def _restarts(self, worker: int) -> Counter:
        return self._metrics.labelled(self._metrics.service.engine_restarts, worker=str(worker))

    def _exits(self, worker: int, cause: EndCause) -> Counter:
        exits = self._metrics.service.engine_exits
        return self._metrics.labelled(exits, worker=str(worker), cause=cause)

    @property
    def _furthest(self) -> Supervisor:
        return min(self.supervisors, key=lambda s: (_FURTHEST.index(s.phase), s.phase_since))


def _in_phase(supervisor: Supervisor, phase: WorkerPhase) -> float:
    return float(supervisor.phase == phase)
