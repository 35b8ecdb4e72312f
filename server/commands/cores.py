"""Planning for a server on a CPU: how many workers, with how many threads each, for a load and a number of cores.

The steps of a worker are measured (``benchmarks.bench_engine``) with one number of threads or more, and follow Amdahl's
law between and beyond those: a part that more threads do not shorten, and a part that they share. Each division of the
cores is then simulated with the real scheduler.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from server.commands.capacity import Demand, MeasuredTimes, Steps, capacity
from server.commands.simulation import Simulation, StepTimes
from server.errors import UsageError
from server.worker.scheduler import Policy

_MOST_THREADS = 16
"""Of a worker: as many as it takes by itself at most."""


@dataclass(frozen=True)
class Division:
    """One way to divide cores among workers, and what it comes to.

    Attributes:
        workers: number of workers.
        threads: of each of them.
        measured: steps with this number of threads were measured.
        capacity_rps: images per second of all workers, if they did not slow each other down.
        one_image_alone: seconds of one image, nothing beside it.
        p50: half of the images are ready within so many seconds, at the load that is planned for.
        p99: so are 99 of 100.
        kept: p99 is within the target.
    """

    workers: int
    threads: int
    measured: bool
    capacity_rps: float
    one_image_alone: float
    p50: float
    p99: float
    kept: bool


@dataclass(frozen=True)
class Amdahl:
    """Seconds of an image by number of threads: ``fixed + shared / threads``."""

    fixed: float
    shared: float

    def seconds(self, threads: int) -> float:
        """Return the seconds of an image with so many threads."""
        return self.fixed + self.shared / threads

    @classmethod
    def fitted(cls, seconds: Mapping[int, float]) -> Amdahl:
        """Return the law nearest to measured seconds by number of threads, by least squares, no part below zero.

        One measurement leaves the fixed part open; it is taken for zero.
        """
        shares = [1 / threads for threads in seconds]
        mean_x, mean_y = (sum(v) / len(seconds) for v in (shares, seconds.values()))
        spread = sum((x - mean_x) ** 2 for x in shares)
        slope = sum(
            (x - mean_x) * (y - mean_y) for x, y in zip(shares, seconds.values(), strict=True)
        )
        if spread == 0 or mean_y - mean_x * slope / spread < 0:  # faster than its share of threads
            return cls(0.0, mean_y / mean_x)
        return cls(mean_y - mean_x * max(slope, 0) / spread, max(slope, 0) / spread)


@dataclass(frozen=True)
class _Scaled:
    """Step times of another number of threads: measured ones, all multiplied by a factor."""

    times: StepTimes
    factor: float

    def step(self, scales: Sequence[int]) -> float:
        return self.factor * self.times.step(scales)

    def decode(self, batch: int) -> float:
        return self.factor * self.times.decode(batch)


def divide(demand: Demand, cores: int, measured: Sequence[Steps], policy: Policy) -> list[Division]:
    """Simulate each division of ``cores`` under a load, the best first: those that meet the target, by p99.

    Args:
        demand: the load; its number of GPUs is not used.
        cores: processors of the server, at least 1.
        measured: steps of one worker on a CPU, each with another number of threads.
        policy: of each worker's scheduler.

    Raises:
        UsageError: measured steps are not of a CPU, or two have the same number of threads.
    """
    by_threads = _by_threads(measured)
    law = Amdahl.fitted({n: _alone(times, policy) for n, times in by_threads.items()})
    found = []
    for threads in _divisors(cores):
        workers = cores // threads
        nearest = min(by_threads, key=lambda n: abs(n - threads))
        # Of a number that was measured, the factor is 1.
        times = _Scaled(by_threads[nearest], law.seconds(threads) / law.seconds(nearest))
        outcome = Simulation(
            times, policy, strategy="continuous", workers=workers, slots=demand.slots
        ).run(demand.rps, demand.requests)
        found.append(
            Division(
                workers=workers,
                threads=threads,
                measured=threads in by_threads,
                capacity_rps=workers * capacity(times, policy, demand.slots),
                one_image_alone=_alone(times, policy),
                p50=outcome.percentile(50),
                p99=outcome.percentile(99),
                kept=outcome.percentile(99) <= demand.p99,
            )
        )
    return sorted(found, key=lambda division: division.p99)


def _by_threads(measured: Sequence[Steps]) -> dict[int, MeasuredTimes]:
    found: dict[int, MeasuredTimes] = {}
    for steps in measured:
        if steps.device != "cpu" or steps.threads < 1:
            raise UsageError(
                f"{steps.path} has the steps of a {steps.device}; --cores needs those of a CPU: "
                "`python -m benchmarks.bench_engine --device cpu --threads 2`."
            )
        if steps.threads in found:
            raise UsageError(
                f"{steps.path} has {steps.threads} threads, as another file has; measure another number."
            )
        found[steps.threads] = steps.times
    return found


def _divisors(cores: int) -> Iterator[int]:
    """Yield numbers of threads: powers of two, and all cores, while a worker takes as many."""
    threads = 1
    while threads < min(cores, _MOST_THREADS):
        yield threads
        threads *= 2
    yield min(cores, _MOST_THREADS)


def _alone(times: StepTimes, policy: Policy) -> float:
    scales = range(len(policy.scale_costs))
    return sum(times.step([scale]) for scale in scales) + times.decode(1)


def cores_text(cores: int, demand: Demand, model: str, found: Sequence[Division]) -> str:
    """Return the divisions as text, the advice first."""
    best, target = found[0], f"99 % within {demand.p99:g} s"
    if best.kept:
        advice = f"serve --workers {best.workers} --threads {best.threads}"
    elif best.capacity_rps < demand.rps:
        advice = f"more cores: these paint {best.capacity_rps:.2f} images per second at most"
    else:
        advice = "more cores, or another target: no division meets it"
    rows = [
        f"{d.workers:>9}{d.threads:>9}{d.capacity_rps:>11.2f}{d.one_image_alone:>9.2f}{d.p50:>9.2f}{d.p99:>9.2f}"
        f"  {'yes' if d.kept else 'no':6}  {'yes' if d.measured else 'computed'}"
        for d in found
    ]
    names = ("workers", "threads", "images/s", "alone s", "p50 s", "p99 s")
    widths = (9, 9, 11, 9, 9, 9)
    titles = "".join(f"{n:>{w}}" for n, w in zip(names, widths, strict=True)) + "  target  measured"
    return "\n".join(
        [
            f"load        {demand.rps:g} images per second of {model}, {target}",
            f"cores       {cores}",
            f"advice      {advice}",
            titles,
            *rows,
        ]
    )


DOUBT = (
    "the text encoder, uploaded images, image files, the network; each worker was measured alone, and workers side by "
    "side share caches and memory, so they are slower; numbers of threads that were not measured follow Amdahl's law "
    "from those that were"
)
"""What the numbers do not tell."""
