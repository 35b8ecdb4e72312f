"""How often a batch changes an image: ``python -m benchmarks.bench_agreement --images 64 --batch 8``.

Each image is generated alone and in a batch with the same seed. The random numbers are the same; what may differ are
the low bits of sums, and through them a token.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.workload import (
    PROMPTS,
    add_model_arguments,
    conditions,
    encode,
    heading,
    open_model,
    paint,
    prepare,
    print_json,
)
from star_model import Engine, StarModel
from star_model.engine.engine import Mode


def tokens(model: StarModel, mode: Mode, images: int, batch: int) -> list[torch.Tensor]:
    """All tokens (L,) of images 0 to ``images - 1``, generated ``batch`` at a time."""
    engine = Engine(model, slots=batch, mode=mode)
    texts = encode(model, count=len(PROMPTS))
    out = []
    for first in range(0, images, batch):
        seeds = range(first, min(first + batch, images))
        sequences = prepare(engine, [texts[i % len(texts)] for i in seeds], seeds)
        paint(engine, sequences)
        for sequence in sequences:
            engine.release(sequence)
            out.append(torch.cat(sequence.tokens))
    return out


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description="How often a batch changes an image.")
    add_model_arguments(parser)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    model = open_model(arguments)
    print(heading(model))
    alone = tokens(model, "fast", arguments.images, 1)
    results = {}
    modes: tuple[Mode, ...] = ("fast", "deterministic")
    for mode in modes:
        together = tokens(model, mode, arguments.images, arguments.batch)
        different = [
            (a != b).float() for a, b in zip(alone, together, strict=True) if not torch.equal(a, b)
        ]
        same = arguments.images - len(different)
        results[mode] = {
            "same": same,
            "images": arguments.images,
            "first_differences": [int(d.argmax()) for d in different],
        }
        print(
            f"{mode}: {same} of {arguments.images} images have the same tokens in a batch of {arguments.batch} as alone"
        )
    print_json("agreement", **conditions(model), batch=arguments.batch, modes=results)


if __name__ == "__main__":
    main()
