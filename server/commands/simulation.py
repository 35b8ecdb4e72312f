"""Simulation of a server under load: random arrivals, workers that step, and the latency of each image.

It is a discrete-event simulation without clock and model: it runs the real scheduler, and takes the duration of a step
from a function, which is measured or computed. Hours of eight GPUs take seconds, and a policy can be chosen before
there is a machine to try it on. Each request is for one image, and no client disconnects.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from server.messages import Key
from server.worker.scheduler import Policy, Scheduler

Strategy = Literal["one", "whole", "continuous", "packed"]
"""Batching strategy of a worker: ``one`` image at a time; ``whole`` generations, where a batch is filled only when the
last one has ended; ``continuous`` batching by scale; or ``packed``, all images in every step whatever their scale."""


class StepTimes(Protocol):
    """Durations of a worker's operations, in seconds."""

    def step(self, scales: Sequence[int]) -> float:
        """Return the seconds of one step of images at these scales; only packed batches mix scales."""

    def decode(self, batch: int) -> float:
        """Return the seconds to decode a batch of finished images."""


@dataclass(frozen=True)
class Outcome:
    """The result of a simulation.

    Attributes:
        latencies: seconds from arrival to finished image of each request, ascending.
        seconds: from the first arrival to the last finished image.
        busy: share of that time in which a worker was busy, mean over workers.
        batch: mean number of images in a step.
    """

    latencies: tuple[float, ...]
    seconds: float
    busy: float
    batch: float

    @property
    def throughput(self) -> float:
        """Images per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Return the seconds within which ``percent`` of the requests were answered."""
        return percentile(self.latencies, percent)


def percentile(latencies: Sequence[float], percent: float) -> float:
    """Return the seconds within which ``percent`` of the requests were answered; infinite without any.

    Args:
        latencies: seconds, ascending.
        percent: 0 to 100.
    """
    if not latencies:
        return math.inf
    return latencies[min(len(latencies) - 1, int(len(latencies) * percent / 100))]


@dataclass
class _Worker:
    scheduler: Scheduler
    scales: dict[Key, int] = field(default_factory=dict)  # of the images that hold a slot
    busy: float = 0.0
    steps: int = 0
    stepped: int = 0
    working: bool = False


class Simulation:
    """Workers behind one queue.

    Args:
        times: durations of steps and decodes.
        policy: of every worker's scheduler.
        strategy: see :data:`Strategy`.
        workers: at least 1.
        slots: of each worker.
    """

    def __init__(
        self,
        times: StepTimes,
        policy: Policy,
        *,
        strategy: Strategy,
        workers: int = 1,
        slots: int = 8,
    ) -> None:
        self._times = times
        self._num_scales = len(policy.scale_costs)
        self._strategy = strategy
        self._slots = 1 if strategy == "one" else slots
        self._workers = [_Worker(Scheduler(policy)) for _ in range(workers)]
        self._queue: deque[Key] = deque()
        self._events: list[tuple[float, int, _Worker | Key, tuple[Key, ...]]] = []
        self._order = itertools.count()
        self._latencies: list[float] = []
        self._arrived: dict[Key, float] = {}

    def run(self, rate: float, requests: int, seed: int = 0) -> Outcome:
        """Simulate Poisson arrivals until all requests are done.

        Args:
            rate: requests per second, on average.
            requests: their number.
            seed: of the random arrivals.
        """
        chance = random.Random(seed)
        now = 0.0
        for i in range(requests):
            self._push(now, Key(str(i), 0))
            now += chance.expovariate(rate)
        end = 0.0
        while self._events:
            end, _, what, painted = heapq.heappop(self._events)
            if isinstance(what, Key):
                self._arrived[what] = end
                self._queue.append(what)
            else:
                what.working = False
                self._latencies += [end - self._arrived.pop(key) for key in painted]
            self._admit()
            for worker in self._workers:
                if not worker.working:
                    self._step(worker, end)
        steps, stepped = (
            sum(getattr(w, name) for w in self._workers) for name in ("steps", "stepped")
        )
        busy = sum(w.busy for w in self._workers) / (end * len(self._workers))
        return Outcome(tuple(sorted(self._latencies)), end, busy, stepped / steps)

    def _push(self, time: float, what: _Worker | Key, painted: tuple[Key, ...] = ()) -> None:
        heapq.heappush(self._events, (time, next(self._order), what, painted))

    def _admit(self) -> None:
        """Give free slots to waiting images, always on the worker with the most free slots."""
        while self._queue:
            taking = [
                w for w in self._workers if len(w.scales) < self._slots and not self._closed(w)
            ]
            if not taking:
                return
            worker = min(taking, key=lambda w: len(w.scales))
            key = self._queue.popleft()
            worker.scales[key] = 0
            worker.scheduler.add(key)

    def _closed(self, worker: _Worker) -> bool:
        """Return true while a batch runs that no image may join."""
        return self._strategy == "whole" and any(worker.scales.values())

    def _step(self, worker: _Worker, now: float) -> None:
        """Begin the worker's next step and schedule its end."""
        batch = (
            tuple(worker.scales)
            if self._strategy == "packed"
            else worker.scheduler.next_batch(worker.scales)
        )
        if not batch:
            return
        seconds = self._times.step([worker.scales[key] for key in batch])
        for key in batch:
            worker.scales[key] += 1
        painted = tuple(key for key in batch if worker.scales[key] == self._num_scales)
        for key in painted:
            del worker.scales[key]
            worker.scheduler.remove(key)
        if painted:
            seconds += self._times.decode(len(painted))
        worker.working = True
        worker.busy += seconds
        worker.steps += 1
        worker.stepped += len(batch)
        self._push(now + seconds, worker, painted)
