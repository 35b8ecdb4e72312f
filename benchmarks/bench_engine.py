"""Time the engine stage by stage: ``python -m benchmarks.bench_engine --model star-mini --batch 1 4``.

Random weights may be timed too (``--preset star-512``): speed does not depend on their values.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import (
    add_batch_arguments,
    add_model_arguments,
    clock,
    conditions,
    encode,
    heading,
    open_model,
    paint_in_stages,
    print_json,
)
from star_model import Engine, StarModel
from star_model.engine.engine import Mode


def run(
    model: StarModel, *, batch: int, mode: Mode, repeats: int, tick: Callable[[], float]
) -> dict[str, float]:
    """Median milliseconds of each stage, and of ``total``, for ``batch`` images together, after one warm-up run."""
    engine = Engine(model, slots=batch, mode=mode)
    watch = Stopwatch(model.device, tick)

    def generate() -> None:
        texts = watch.time("text", lambda: encode(model))
        paint_in_stages(watch, engine, texts, range(batch))

    generate()
    watch = Stopwatch(model.device, tick)
    for _ in range(repeats):
        watch.time("total", generate)
    return watch.medians()


def guided(model: StarModel, guidance_scale: float) -> StarModel:
    """``model`` with another guidance by default."""
    sampling = model.config.sampling.changed({"guidance_scale": guidance_scale})
    return dataclasses.replace(model, config=dataclasses.replace(model.config, sampling=sampling))


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description="Time the engine stage by stage.")
    add_model_arguments(parser)
    add_batch_arguments(parser, mode="deterministic", repeats=5)
    parser.add_argument(
        "--guidance-scale",
        type=float,
        help="in place of the model's default; 0 is none, and half of the transformer's work",
    )
    arguments = parser.parse_args()
    model = open_model(arguments)
    if arguments.guidance_scale is not None:
        model = guided(model, arguments.guidance_scale)
    results = {
        b: run(
            model, batch=b, mode=arguments.mode, repeats=arguments.repeats, tick=clock(arguments)
        )
        for b in arguments.batch
    }

    print(f"{heading(model)}, {arguments.mode}, guidance {model.config.sampling.guidance_scale:g}")
    print("milliseconds".ljust(14) + "".join(f"batch {b}".rjust(12) for b in results))
    for stage in next(iter(results.values())):
        print(stage.ljust(14) + "".join(f"{r[stage]:12.1f}" for r in results.values()))
    print("per image".ljust(14) + "".join(f"{r['total'] / b:12.1f}" for b, r in results.items()))
    print_json(
        "engine", **conditions(model), mode=arguments.mode, cpu_time=arguments.cpu_time,
        guidance_scale=model.config.sampling.guidance_scale, milliseconds=results,
    )  # fmt: skip


if __name__ == "__main__":
    main()
