"""What batching by scale is worth on this machine: ``python -m benchmarks.bench_scheduling``.

Poisson arrivals at 30, 60, 90 and 120 % of capacity, batched one at a time, by whole generations, by scale, and packed,
through the simulation of the real scheduler that ``star-server plan --compare`` runs. Its step times are the engine's:

- measured before, at a few sizes of batch, which lets thousands of requests pass in seconds; or
- with ``--engine``, those of steps that the engine makes when the simulation comes to them, every image painted to its
  pixels. Arrivals alone are simulated then. Packed steps are left out, for the engine has none.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.bench_engine import run
from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import (
    add_batch_arguments,
    add_model_arguments,
    clock,
    conditions,
    encode,
    heading,
    open_model,
    prepare,
    print_json,
)
from server.commands.capacity import compare, measured_times
from server.commands.plan import Plan, comparison_text
from star_model import Engine, ImageSequence, StarModel
from star_model.engine.engine import Mode


class EngineTimes:
    """Step times of work that is done when a simulation asks how long it takes.

    Images at one scale cost the same whoever they are, so any of those that are there may step for the ones that the
    simulation means. The first step of an image includes the encoding of its text.

    Args:
        engine: with as many slots as the simulated worker.
        tick: a clock, in seconds.
    """

    def __init__(self, engine: Engine, tick: Callable[[], float]) -> None:
        self._engine, self._tick = engine, tick
        self._begun = 0
        self._at: defaultdict[int, list[ImageSequence]] = defaultdict(
            list
        )  # images by their next scale

    def step(self, scales: Sequence[int]) -> float:
        (scale,) = set(scales)
        return self._seconds(lambda: self._step(scale, len(scales)))

    def decode(self, batch: int) -> float:
        return self._seconds(
            lambda: self._engine.finish(self._take(self._engine.num_scales, batch))
        )

    def _step(self, scale: int, count: int) -> None:
        if scale == 0:
            texts = encode(self._engine.model, self._begun, count)
            self._at[0] += prepare(self._engine, texts, range(self._begun, self._begun + count))
            self._begun += count
        images = self._take(scale, count)
        self._engine.step(images)
        self._at[scale + 1] += images

    def _take(self, scale: int, count: int) -> list[ImageSequence]:
        taken, self._at[scale] = self._at[scale][:count], self._at[scale][count:]
        return taken

    def _seconds(self, work: Callable[[], Any]) -> float:
        watch = Stopwatch(self._engine.model.device, self._tick)
        watch.time("work", work)
        return watch.seconds["work"][0]


def with_the_engine(
    model: StarModel, plan: Plan, *, mode: Mode, requests: int, tick: Callable[[], float]
) -> list[dict[str, Any]]:
    """The rows of ``star-server plan --compare`` for ``requests`` a row, each step made by an engine."""
    times = EngineTimes(Engine(model, slots=plan.slots, mode=mode), tick)
    return compare(
        times, plan.policy(model.config), gpus=1, slots=plan.slots, requests=requests,
        strategies=("one", "whole", "continuous"),
    )  # fmt: skip


def main() -> None:
    """Parse the command line, measure, simulate, print."""
    parser = argparse.ArgumentParser(description="Compare ways of batching under random arrivals.")
    add_model_arguments(parser)
    add_batch_arguments(parser, mode="fast", repeats=5)
    parser.set_defaults(batch=[1, 4])
    parser.add_argument(
        "--engine", action="store_true", help="make every step, rather than measure a few before"
    )
    parser.add_argument("--requests", type=int, help="of each row: 4000, or 100 with --engine")
    arguments = parser.parse_args()
    model, tick, mode, plan = open_model(arguments), clock(arguments), arguments.mode, Plan()
    if arguments.engine:
        rows = with_the_engine(
            model, plan, mode=mode, requests=arguments.requests or 100, tick=tick
        )
        source = "each step made by the engine when its turn came"
    else:
        measured = {
            str(b): run(model, batch=b, mode=mode, repeats=arguments.repeats, tick=tick)
            for b in arguments.batch
        }
        rows = compare(
            measured_times(measured, model.config), plan.policy(model.config), gpus=1, slots=plan.slots,
            requests=arguments.requests or 4000,
        )  # fmt: skip
        source = f"measured before, in batches of {', '.join(measured)}"
    print(f"{heading(model)}, {mode}; arrivals simulated")
    print(comparison_text(rows, source))
    print_json("scheduling", **conditions(model), mode=mode, step_times=source, loads=rows)


if __name__ == "__main__":
    main()
