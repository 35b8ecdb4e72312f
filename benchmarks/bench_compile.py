"""Whether ``torch.compile`` pays: ``python -m benchmarks.bench_compile --threads 1 --cpu-time``.

One engine as it is and one whose networks are compiled (:mod:`star_model.engine.compilation`) paint the same images, in
turn. What is quoted is the ratio, pair by pair, since the speed of a shared machine drifts; how long the compiler
took; and how many tokens are the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import (
    add_model_arguments,
    clock,
    conditions,
    encode,
    heading,
    open_model,
    paint,
    prepare,
    print_json,
)
from star_model import Engine, StarModel
from star_model.engine.compilation import compile_networks


def compare(
    plain: StarModel, compiled: StarModel, *, batch: int, repeats: int, tick: Callable[[], float]
) -> dict[str, float]:
    """Milliseconds of the scales and of the decoder, ratios of the two ways, and the share of equal tokens."""
    watch = Stopwatch(plain.device, tick)
    engines = {
        way: Engine(model, slots=batch, mode="fast")
        for way, model in (("plain", plain), ("compiled", compiled))
    }
    same = 0.0
    seconds = time.perf_counter()
    for repeat in range(repeats + 1):
        if repeat == 1:  # the first compiled, and was the warm-up
            seconds = time.perf_counter() - seconds
            watch = Stopwatch(plain.device, tick)
        tokens = {}
        for way, engine in engines.items():
            texts = encode(engine.model, repeat)
            sequences = prepare(engine, texts, range(repeat * batch, (repeat + 1) * batch))
            watch.time(f"{way} scales", partial(paint, engine, sequences))
            watch.time(f"{way} decode", partial(engine.finish, sequences))
            tokens[way] = torch.stack([torch.cat(s.tokens) for s in sequences])
        same += (tokens["plain"] == tokens["compiled"]).float().mean().item() / (repeats + 1)
    ratios = {
        part: watch.ratio(f"plain {part}", f"compiled {part}") for part in ("scales", "decode")
    }
    return {
        **watch.medians(),
        **{f"ratio {part}": ratio for part, ratio in ratios.items()},
        "first_seconds": seconds,
        "same_tokens": same,
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description="Compare the engine with one whose networks are compiled."
    )
    add_model_arguments(parser)
    parser.add_argument("--batch", type=int, default=1, help="images together")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    plain, compiled = open_model(arguments), open_model(arguments)
    compile_networks(compiled)
    found = compare(
        plain, compiled, batch=arguments.batch, repeats=arguments.repeats, tick=clock(arguments)
    )
    print(f"{heading(plain)}, batch {arguments.batch}; medians of {arguments.repeats}")
    for part in ("scales", "decode"):
        a, b, ratio = (found[f"{what} {part}"] for what in ("plain", "compiled", "ratio"))
        print(f"{part:8}{a:10.1f} ms plain{b:10.1f} ms compiled{ratio:8.2f} x")
    print(
        f"first images {found['first_seconds']:.0f} s, {100 * found['same_tokens']:.2f} % of tokens the same"
    )
    print_json(
        "compile", **conditions(plain), batch=arguments.batch, cpu_time=arguments.cpu_time, **found
    )


if __name__ == "__main__":
    main()
