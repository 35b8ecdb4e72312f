"""Simulation of callers that share a server: who gets how much, and how long each waits.

It runs the real dispatcher and the real scheduler, like :mod:`server.commands.simulation` without clock and model.
Each caller keeps a number of requests waiting, or sends them one at a time at random moments.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from server.commands.simulation import StepTimes, percentile
from server.dispatch.dispatcher import Dispatcher
from server.messages import INTERACTIVE, Job, Key
from server.worker.scheduler import Policy, Scheduler
from star_model.sampling import Sampling


@dataclass(frozen=True)
class Caller:
    """What a tenant sends.

    Args:
        tenant: its name.
        images: in each request.
        at_once: requests that it sends at the start.
        rate: requests per second after that, on average; 0 is none.
        priority: class of its requests.
    """

    tenant: str
    images: int = 1
    at_once: int = 0
    rate: float = 0.0
    priority: int = INTERACTIVE


@dataclass
class Share:
    """What a tenant got.

    Attributes:
        images: finished ones.
        latencies: seconds from arrival to the last image of each finished request, ascending.
    """

    images: int = 0
    latencies: list[float] = field(default_factory=list)

    def percentile(self, percent: float) -> float:
        """Return the seconds within which ``percent`` of the finished requests were answered; infinite without any."""
        return percentile(self.latencies, percent)


@dataclass
class _Worker:
    scheduler: Scheduler
    scales: dict[Key, int] = field(default_factory=dict)
    recalled: list[Key] = field(default_factory=list)  # asked back since its last step
    working: bool = False


@dataclass(frozen=True)
class _Arrival:
    caller: Caller
    job: Job


class TenantSimulation:
    """Callers before one server.

    Args:
        times: durations of steps and decodes.
        policy: of every worker's scheduler.
        workers: at least 1.
        slots: of each worker.
    """

    def __init__(
        self, times: StepTimes, policy: Policy, *, workers: int = 1, slots: int = 8
    ) -> None:
        self._times = times
        self._num_scales = len(policy.scale_costs)
        self._dispatcher = Dispatcher()
        self._workers = [_Worker(Scheduler(policy)) for _ in range(workers)]
        for index in range(workers):
            self._dispatcher.open(index, slots)
        self._jobs: dict[str, tuple[Caller, float]] = {}  # of each job that is not over
        self._unpainted: dict[str, int] = {}
        self._shares: dict[str, Share] = {}

    def run(self, callers: Sequence[Caller], seconds: float, seed: int = 0) -> dict[str, Share]:
        """Simulate a stretch of time.

        Args:
            callers: each with a tenant of its own.
            seconds: simulated; requests that are not finished by then count by their finished images.
            seed: of the random arrivals.

        Returns:
            what each tenant got.
        """
        self._shares = {caller.tenant: Share() for caller in callers}
        order = itertools.count()
        events: list[tuple[float, int, _Arrival | _Worker, tuple[Key, ...]]] = []
        for at, arrival in _arrivals(callers, seconds, random.Random(seed)):
            events.append((at, next(order), arrival, ()))
        heapq.heapify(events)
        while events and events[0][0] <= seconds:
            now, _, what, finished = heapq.heappop(events)
            if isinstance(what, _Arrival):
                self._dispatcher.submit(what.job)
                self._jobs[what.job.id] = (what.caller, now)
                self._unpainted[what.job.id] = len(what.job.seeds)
            else:
                what.working = False
                for key in finished:
                    self._finish(key, now)
            self._place()
            for worker in self._workers:
                if not worker.working and (step := self._step(worker)) is not None:
                    heapq.heappush(events, (now + step[0], next(order), worker, step[1]))
        for share in self._shares.values():
            share.latencies.sort()
        return self._shares

    def _place(self) -> None:
        for index, job, image, _ in self._dispatcher.place():
            key, worker = Key(job.id, image), self._workers[index]
            worker.scales[key] = 0
            worker.scheduler.add(key, job.tenant, job.priority)
        for index, key in self._dispatcher.recall():
            self._workers[index].recalled.append(key)

    def _step(self, worker: _Worker) -> tuple[float, tuple[Key, ...]] | None:
        """Begin a worker's next step; return its seconds and the images that it finishes. None if there is none."""
        for key in worker.recalled:
            if worker.scales.pop(key, None) is not None:  # else it is finished
                worker.scheduler.remove(key)
                self._dispatcher.withdrawn(key)
        worker.recalled.clear()
        self._place()
        batch = worker.scheduler.next_batch(worker.scales)
        if not batch:
            return None
        worker.working = True
        seconds = self._times.step([worker.scales[key] for key in batch])
        for key in batch:
            worker.scales[key] += 1
        finished = tuple(key for key in batch if worker.scales[key] == self._num_scales)
        for key in finished:
            del worker.scales[key]
            worker.scheduler.remove(key)
        return seconds + (self._times.decode(len(finished)) if finished else 0), finished

    def _finish(self, key: Key, now: float) -> None:
        caller, arrived = self._jobs[key.job_id]
        self._dispatcher.vacated(key)
        self._dispatcher.painted(key)
        share = self._shares[caller.tenant]
        share.images += 1
        self._unpainted[key.job_id] -= 1
        if not self._unpainted[key.job_id]:
            self._dispatcher.remove(key.job_id)
            del self._jobs[key.job_id], self._unpainted[key.job_id]
            share.latencies.append(now - arrived)


def _arrivals(
    callers: Sequence[Caller], seconds: float, chance: random.Random
) -> Iterator[tuple[float, _Arrival]]:
    number = itertools.count()
    for caller in callers:
        times = [0.0] * caller.at_once
        now = chance.expovariate(caller.rate) if caller.rate else math.inf
        while now < seconds:
            times.append(now)
            now += chance.expovariate(caller.rate)
        for at in times:
            job = Job(
                id=str(next(number)),
                prompt="",
                negative_prompt="",
                seeds=tuple(range(caller.images)),
                sampling=Sampling(),
                tenant=caller.tenant,
                priority=caller.priority,
            )
            yield at, _Arrival(caller, job)
