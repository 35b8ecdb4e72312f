"""The worker's main loop around a fake engine, run in the test's own thread."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import structlog

from server.messages import (
    Accept,
    Cancel,
    Failed,
    FromWorker,
    Job,
    Paint,
    Painted,
    Shutdown,
    ToWorker,
)
from tests.server.fakes import FakeEngine, make_loop


class Run:
    """Jobs on a fake engine until each has an outcome, of which the loop is told, then a shutdown."""

    def __init__(
        self, engine: FakeEngine | None = None, clock: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.engine = engine or FakeEngine()
        self.inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self.sent: list[FromWorker] = []
        self.expected = 0
        self.loop = make_loop(self.engine, self.inbox, self._publish, clock)
        self._unpainted: dict[str, int] = {}

    def submit(self, *jobs: Job) -> None:
        for job in jobs:
            self._unpainted[job.id] = len(job.seeds)
            self.inbox.put(Accept(job))
            for image in range(len(job.seeds)):
                self.inbox.put(Paint(job.id, image))

    def cancel(self, job_id: str) -> None:
        self._over(job_id)

    def run(self) -> list[FromWorker]:
        with structlog.testing.capture_logs():  # formatting tracebacks takes most of the time
            self.loop.run()
        assert not self.loop._jobs, "a job is kept after its end"
        return self.sent

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]

    def _publish(self, message: FromWorker) -> None:
        self.sent.append(message)
        match message:
            case Painted(job_id):
                self._unpainted[job_id] -= 1
                if not self._unpainted[job_id]:
                    self._over(job_id)
            case Failed(job_id):
                self._over(job_id)

    def _over(self, job_id: str) -> None:
        self.inbox.put(Cancel(job_id))
        self._unpainted.pop(job_id, None)
        if not self._unpainted:
            self.inbox.put(Shutdown())
