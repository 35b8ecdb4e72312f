"""The engine against a plain loop of the same weights: ``python -m benchmarks.bench_reference --batch 1 4``.

Both paint the same images, in turn, from prompt to pixels. The plain loop is always in float32, as published; the
engine as the flags say. What is quoted is the ratio, pair by pair, since the speed of a shared machine drifts; and
whether the tokens are equal.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.plain import PlainLoop
from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import (
    PROMPTS,
    add_batch_arguments,
    add_model_arguments,
    clock,
    conditions,
    heading,
    open_model,
    paint,
    prepare,
    print_json,
)
from star_model import Engine, StarModel
from star_model.engine.engine import Mode


def compare(
    exact: StarModel,
    model: StarModel,
    *,
    batch: int,
    mode: Mode,
    repeats: int,
    tick: Callable[[], float],
) -> dict[str, float]:
    """Milliseconds of a batch, the ratio, and how many of the images have the same tokens."""
    plain, engine = PlainLoop(exact), Engine(model, slots=batch, mode=mode)
    watch = Stopwatch(model.device, tick)
    same = images = 0

    def by_plain(prompts: list[str], seeds: range) -> torch.Tensor:
        tokens, _ = plain.generate(prompts, [model.config.sampling] * len(seeds), seeds)
        return torch.cat(tokens, dim=1)

    def by_engine(prompts: list[str], seeds: range) -> torch.Tensor:
        texts = [text for prompt in prompts for text in model.text_encoder.encode([prompt])]
        sequences = prepare(engine, texts, seeds)
        paint(engine, sequences)
        engine.finish(sequences)
        return torch.stack([torch.cat(s.tokens) for s in sequences])

    for repeat in range(repeats + 1):
        if repeat == 1:  # the first was the warm-up
            watch = Stopwatch(model.device, tick)
        seeds = range(repeat * batch, (repeat + 1) * batch)
        prompts = [PROMPTS[i % len(PROMPTS)] for i in seeds]
        expected = watch.time("plain", partial(by_plain, prompts, seeds))
        found = watch.time("engine", partial(by_engine, prompts, seeds))
        same += int((expected == found).all(1).sum())
        images += batch
    return {
        **watch.medians(),
        "ratio": watch.ratio("plain", "engine"),
        "same": same,
        "images": images,
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description="Time the engine against a plain loop of the same weights."
    )
    add_model_arguments(parser)
    add_batch_arguments(parser, mode="deterministic", repeats=7)
    arguments = parser.parse_args()
    model = open_model(arguments)
    arguments.dtype = "float32"
    exact = open_model(arguments)
    results = {
        b: compare(
            exact,
            model,
            batch=b,
            mode=arguments.mode,
            repeats=arguments.repeats,
            tick=clock(arguments),
        )
        for b in arguments.batch
    }

    print(
        f"{heading(model)}, {arguments.mode}; milliseconds for the batch, medians of {arguments.repeats}"
    )
    print(
        "".join(name.rjust(10) for name in ("batch", "plain", "engine", "ratio")) + "  same tokens"
    )
    for b, r in results.items():
        same = f"{r['same']} of {r['images']}"
        print(f"{b:10}{r['plain']:10.1f}{r['engine']:10.1f}{r['ratio']:10.2f}  {same}")
    print_json(
        "reference",
        **conditions(model),
        mode=arguments.mode,
        cpu_time=arguments.cpu_time,
        batches=results,
    )


if __name__ == "__main__":
    main()
