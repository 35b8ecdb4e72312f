"""The workers behind one queue: starts and supervises them, gives them images, and tells what becomes of those."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from server.dispatch.dispatcher import Dispatcher
from server.dispatch.supervisor import Listeners, Patience, Phase, Supervisor
from server.dispatch.worker_process import Launch
from server.messages import Cancel, Freed, Job, ModelInfo, Paint, Painted, Started, Work
from server.metrics import Metrics
from server.worker.scheduler import Key

_FURTHEST: tuple[Phase, ...] = (
    "ready",
    "restarting",
    "warming",
    "capturing",
    "loading",
    "starting",
    "failed",
    "stopped",
)
"""Of several workers, the one whose phase stands first here speaks for the service."""


@dataclass(frozen=True)
class PoolListeners:
    """Whom a pool tells what; all are called on the event loop.

    Args:
        ready: a worker is warm.
        lost: a worker has ended, and these jobs, to be removed, with it.
        work: what a worker says of jobs, and how long its work took.
    """

    ready: Callable[[ModelInfo], None]
    lost: Callable[[list[str]], None]
    work: Callable[[Work], None]


class WorkerPool:
    """One worker for each device, and one queue before them.

    Attributes:
        supervisors: of the workers, by index.
        dispatcher: where each image is.

    Args:
        launch: starts a worker.
        count: how many; 0 is as many as the first of them finds devices for.
        patience: with each.
        listeners: see :class:`PoolListeners`.
        metrics: where the workers are seen.
        clock: seconds, monotonic, shared with the workers.
    """

    def __init__(
        self,
        launch: Launch,
        count: int,
        patience: Patience,
        listeners: PoolListeners,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._launch = launch
        self._count = count
        self._patience = patience
        self._tell = listeners
        self._metrics = metrics
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self.dispatcher = Dispatcher()
        self.supervisors: list[Supervisor] = []
        for _ in range(count or 1):
            self._add()

    # What the workers are doing.

    @property
    def phase(self) -> Phase:
        """Where the worker that is furthest is in its life."""
        return self._furthest.phase

    @property
    def phase_since(self) -> float:
        """When that phase began."""
        return self._furthest.phase_since

    @property
    def alive(self) -> bool:
        """Whether all supervisors are."""
        return all(supervisor.alive for supervisor in self.supervisors)

    @property
    def model(self) -> ModelInfo | None:
        """What is loaded, or was before the workers ended; None until the first load."""
        return next((s.model for s in self.supervisors if s.model is not None), None)

    @property
    def fatal(self) -> str | None:
        """Why nothing can be served at all: no worker has ever been able to load the model."""
        reasons = [supervisor.fatal for supervisor in self.supervisors]
        return reasons[0] if all(reasons) else None

    @property
    def seconds_to_ready(self) -> float:
        """Until one of the workers is likely to be ready."""
        return min(supervisor.seconds_to_ready for supervisor in self.supervisors)

    @property
    def slots(self) -> int:
        """Of the workers that are ready."""
        return self.dispatcher.slots

    def start(self) -> None:
        """Start the workers; returns before there is one."""
        for supervisor in list(self.supervisors):
            supervisor.start()

    async def close(self) -> None:
        """End the workers."""
        await asyncio.gather(*(supervisor.close() for supervisor in self.supervisors))

    # Jobs.

    def submit(self, job: Job) -> None:
        """Queue a job; its images go to workers as these have slots.

        Args:
            job: its id must be new.
        """
        self.dispatcher.submit(job.id, len(job.seeds))
        self._jobs[job.id] = job
        self._place()

    def remove(self, job_id: str) -> None:
        """Forget a job that is over or given up; workers that paint it stop before their next step."""
        self._jobs.pop(job_id, None)
        for worker in self.dispatcher.remove(job_id):
            self.supervisors[worker].send(Cancel(job_id))
        self._place()

    def _place(self) -> None:
        for worker, key in self.dispatcher.place():
            self.supervisors[worker].send(Paint(self._jobs[key.job_id], key.image))

    # What the supervisors tell.

    def _on_devices(self, count: int) -> None:
        while not self._count and len(self.supervisors) < count:
            self._add().start()

    def _on_ready(self, worker: int, model: ModelInfo) -> None:
        self.dispatcher.open(worker, model.slots)
        self._tell.ready(model)
        self._place()

    def _on_lost(self, worker: int) -> None:
        self._metrics.engine_restarts.labels(str(worker)).inc()
        self._tell.lost(self.dispatcher.close(worker))
        self._place()

    def _on_work(self, worker: int, message: Work) -> None:
        match message:
            case Started(job_id, image):
                self.dispatcher.begun(Key(job_id, image))
            case Freed(job_id, image):
                self.dispatcher.vacated(Key(job_id, image))
                self._place()
            case Painted(job_id, image):
                self.dispatcher.painted(Key(job_id, image))
                self._metrics.images.labels(str(worker)).inc()
        self._tell.work(message)

    def _add(self) -> Supervisor:
        index = len(self.supervisors)
        listeners = Listeners(
            devices=self._on_devices,
            ready=partial(self._on_ready, index),
            lost=partial(self._on_lost, index),
            work=partial(self._on_work, index),
        )
        supervisor = Supervisor(index, self._launch, self._patience, listeners, self._clock)
        self.supervisors.append(supervisor)
        self._watch(supervisor)
        return supervisor

    def _watch(self, supervisor: Supervisor) -> None:
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
        self._metrics.images.labels(worker)  # so that it is 0 before the first, not absent
        self._metrics.engine_restarts.labels(worker)

    @property
    def _furthest(self) -> Supervisor:
        return min(self.supervisors, key=lambda s: (_FURTHEST.index(s.phase), s.phase_since))
