"""Capacity planning: the number of GPUs that a load needs, and the latency to expect.

The answer comes from a simulation of the real scheduler (:mod:`server.commands.simulation`). Its step times are either
measured (``--step-times``, a file with the line of JSON that ``benchmarks.bench_engine`` prints), or computed from
the model's configuration and the GPU's speed (:mod:`star_model.cost`) and divided by the share of this floor that the
engine reaches; then the plan is labelled as a model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from server.commands.simulation import Outcome, Simulation, StepTimes, Strategy
from server.errors import UsageError
from server.worker.scheduler import Policy
from star_model.config import ModelConfig
from star_model.cost import Device, decode_work, step_launches, step_work

# Of what a step does besides the transformer: sampling, quantizing, bookkeeping.
_OTHER_SECONDS = 0.2e-3
_MOST_GPUS = 1024
_MOST_LOAD = 0.9  # of capacity; beyond it every burst leaves a queue that lasts, which a short simulation hides
_LOADS = (0.3, 0.6, 0.9, 1.2)


@dataclass(frozen=True)
class Demand:
    """The load to plan for, and its target.

    Args:
        rps: images per second.
        p99: target for the 99th percentile of latency, in seconds.
        gpus: number of GPUs; 0 finds the smallest number.
        slots: images in flight on each GPU.
        requests: number of requests to simulate.
    """

    rps: float
    p99: float
    gpus: int
    slots: int
    requests: int


def plan(demand: Demand, times: StepTimes, policy: Policy) -> dict[str, Any]:
    """Find the smallest number of GPUs that meets the target, and simulate them.

    Raises:
        UsageError: no number of GPUs meets it.
    """
    alone = Simulation(times, policy, strategy="continuous", slots=demand.slots)
    shortest = alone.run(rate=1e-6, requests=100).percentile(50)
    if shortest > demand.p99:
        raise UsageError(
            f"One image alone takes {shortest:.2f} s, so no number of GPUs answers in {demand.p99:g} s; relax --p99."
        )
    each = capacity(times, policy, demand.slots)
    gpus, outcome = _fewest(demand, times, policy, each)
    return {
        "rps": demand.rps,
        "p99_wanted": demand.p99,
        "gpus": gpus,
        "slots": demand.slots,
        "capacity_rps": gpus * each,
        "busy": outcome.busy,
        "mean_batch": outcome.batch,
        "one_image_alone": shortest,
        "p50": outcome.percentile(50),
        "p99": outcome.percentile(99),
        "kept": outcome.percentile(99) <= demand.p99,
    }


def _fewest(demand: Demand, times: StepTimes, policy: Policy, each: float) -> tuple[int, Outcome]:
    """Return the number of GPUs and the outcome of its simulation; ``each`` is one GPU's images per second."""
    gpus = demand.gpus or max(1, math.ceil(demand.rps / (_MOST_LOAD * each)))
    while gpus <= _MOST_GPUS:
        simulation = Simulation(
            times, policy, strategy="continuous", workers=gpus, slots=demand.slots
        )
        outcome = simulation.run(demand.rps, demand.requests)
        if demand.gpus or outcome.percentile(99) <= demand.p99:
            return gpus, outcome
        gpus = max(gpus + 1, round(gpus * 1.05))
    raise UsageError(f"More than {_MOST_GPUS} GPUs would be needed; relax --p99 or --rps.")


@dataclass(frozen=True)
class CountedTimes:
    """Step times computed from the floor of a device, its least time, and the share of it that the engine reaches.

    A step takes at least as long as launching its kernels one by one: small models and coarse scales are bound by
    that. A packed step reads the weights once for all scales in it.

    Args:
        config: of the model.
        device: its speed.
        efficiency: share of the floor that is reached, above 0 and up to 1.
        launch_seconds: of the processor for each kernel; 0 where CUDA graphs are replayed.
    """

    config: ModelConfig
    device: Device
    efficiency: float
    launch_seconds: float = 0.0

    def step(self, scales: Sequence[int]) -> float:
        parts = [
            step_work(
                self.config, scale, scales.count(scale), guided=self.config.guided_scales[scale]
            )
            for scale in sorted(set(scales))
        ]
        weights = step_work(self.config, 0, 0).bytes
        total = sum(parts[1:], parts[0])
        shared = total.bytes - weights * (len(parts) - 1)
        floor = max(total.flops / self.device.flops, shared / self.device.bandwidth)
        launches = self.launch_seconds * step_launches(self.config) * len(parts)
        return max(floor / self.efficiency, launches) + _OTHER_SECONDS

    def decode(self, batch: int) -> float:
        return decode_work(self.config, batch).floor(self.device) / self.efficiency


@dataclass(frozen=True)
class MeasuredTimes:
    """Step times measured at a few batch sizes, linearly interpolated and extrapolated.

    Attributes:
        batches: sizes, ascending.
        steps: seconds of a step, for each scale and size.
        decodes: seconds of a decode, for each size.
    """

    batches: tuple[int, ...]
    steps: tuple[tuple[float, ...], ...]
    decodes: tuple[float, ...]

    def step(self, scales: Sequence[int]) -> float:
        return sum(self._at(self.steps[scale], scales.count(scale)) for scale in set(scales))

    def decode(self, batch: int) -> float:
        return self._at(self.decodes, batch)

    def _at(self, seconds: Sequence[float], batch: int) -> float:
        if batch <= self.batches[0] or len(self.batches) == 1:
            return seconds[0] * batch / self.batches[0]
        i = next((i for i, b in enumerate(self.batches) if b >= batch), len(self.batches) - 1)
        (x0, x1), (y0, y1) = self.batches[i - 1 : i + 1], seconds[i - 1 : i + 1]
        return y0 + (y1 - y0) * (batch - x0) / (x1 - x0)


def measured_times(
    milliseconds: Mapping[str, Mapping[str, float]], config: ModelConfig
) -> MeasuredTimes:
    """Return step times from medians by batch size and stage, as ``benchmarks.bench_engine`` prints them.

    Raises:
        LookupError: a stage of the model is missing.
    """
    batches = sorted(milliseconds, key=int)
    steps = tuple(
        tuple(milliseconds[b][f"scale {label}"] / 1000 for b in batches)
        for label in config.schedule.labels
    )
    decodes = tuple(milliseconds[b]["decode"] / 1000 for b in batches)
    return MeasuredTimes(tuple(int(b) for b in batches), steps, decodes)


@dataclass(frozen=True)
class Steps:
    """Measured step times, and what they were measured on.

    Attributes:
        path: of the file that they were read from.
        times: seconds by scale and batch size.
        device: ``cpu`` or ``cuda``; empty if the file does not say.
        threads: of the processor; 0 if the file does not say.
    """

    path: Path
    times: MeasuredTimes
    device: str
    threads: int


def read_times(path: Path, config: ModelConfig) -> Steps:
    """Read step times from the line of JSON that ``benchmarks.bench_engine`` prints, the last line of the file.

    Raises:
        UsageError: the file cannot be read, or belongs to another model.
    """
    try:
        line = path.read_text(encoding="utf-8").strip().splitlines()[-1]
        found = json.loads(line)
        times = measured_times(found["milliseconds"], config)
        return Steps(path, times, str(found.get("device", "")), int(found.get("threads", 0)))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"{path} does not hold what `python -m benchmarks.bench_engine` prints for {config.name} ({error!r})."
        ) from error


def capacity(times: StepTimes, policy: Policy, slots: int) -> float:
    """Return the images per second of one worker whose slots are always full."""
    full = Simulation(times, policy, strategy="continuous", slots=slots)
    return full.run(rate=1e9, requests=20 * slots).throughput


def compare(
    times: StepTimes,
    policy: Policy,
    *,
    gpus: int,
    slots: int,
    requests: int,
    strategies: Sequence[Strategy] = get_args(Strategy),
) -> list[dict[str, Any]]:
    """Compare batching strategies under the same loads, given as shares of continuous batching's capacity."""
    most = gpus * capacity(times, policy, slots)
    rows = []
    for load in _LOADS:
        for strategy in strategies:
            simulation = Simulation(times, policy, strategy=strategy, workers=gpus, slots=slots)
            outcome = simulation.run(load * most, requests)
            rows.append(
                {
                    "load": load,
                    "rps": load * most,
                    "strategy": strategy,
                    "throughput": outcome.throughput,
                    "p50": outcome.percentile(50),
                    "p99": outcome.percentile(99),
                    "busy": outcome.busy,
                    "batch": outcome.batch,
                }
            )
    return rows
