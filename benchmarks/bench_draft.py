"""What a draft saves, and what it lacks: ``python -m benchmarks.bench_draft --images 16``.

Each image is painted once in full and once with each number of scales left out, from the same seed. A draft is the
unfinished image before those scales, so both have the same tokens up to there. Compared are the times, decoder
included, and the pixels, by the peak signal-to-noise ratio: of the images as they are, and of both made as small as a
thumbnail, where detail does not count.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import (
    PROMPTS,
    add_model_arguments,
    clock,
    conditions,
    encode,
    heading,
    open_model,
    prepare,
    print_json,
)
from star_model import Engine

THUMBNAIL = 64
"""Side in pixels."""
DRAFTS = (1, 2)


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images with values 0 to 255; infinite if they are equal."""
    error = (a.float() - b.float()).square().mean().item()
    return 20 * math.log10(255) - 10 * math.log10(error) if error else math.inf


def shrunk(image: Tensor) -> Tensor:
    """A thumbnail of an image (H, W, 3)."""
    pixels = image.permute(2, 0, 1)[None].float()
    return F.interpolate(pixels, size=(THUMBNAIL, THUMBNAIL), mode="area")[0]


def measure(
    engine: Engine, images: int, tick: Callable[[], float] = time.perf_counter
) -> dict[int, dict[str, float]]:
    """For each number of scales left out: how many times faster an image is, and its median PSNRs in dB."""
    watch = Stopwatch(engine.model.device, tick)
    texts = encode(engine.model, count=len(PROMPTS))
    whole: dict[int, list[float]] = {draft: [] for draft in DRAFTS}
    small: dict[int, list[float]] = {draft: [] for draft in DRAFTS}

    def paint(seed: int, draft: int) -> Tensor:
        (sequence,) = prepare(engine, [texts[seed % len(texts)]], [seed], draft=draft)
        while not sequence.done:
            engine.step([sequence])
        return engine.finish([sequence])[0]

    for seed in range(images):
        full = watch.time("0", partial(paint, seed, 0))
        for draft in DRAFTS:
            image = watch.time(str(draft), partial(paint, seed, draft))
            whole[draft].append(psnr(full, image))
            small[draft].append(psnr(shrunk(full), shrunk(image)))
    return {
        draft: {
            "times_faster": watch.ratio("0", str(draft)),
            "psnr_db": float(torch.tensor(whole[draft]).median()),
            "thumbnail_psnr_db": float(torch.tensor(small[draft]).median()),
        }
        for draft in DRAFTS
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description="Measure what a draft saves, and what it lacks.")
    add_model_arguments(parser)
    parser.add_argument("--images", type=int, default=16)
    arguments = parser.parse_args()
    model = open_model(arguments)
    drafts = measure(Engine(model, slots=1), arguments.images, clock(arguments))
    print(f"{heading(model)}, {arguments.images} images")
    print(f"{'left out':10}{'times faster':>14}{'PSNR':>10}{f'at {THUMBNAIL} px':>12}")
    for draft, found in drafts.items():
        ratio, whole, small = found.values()
        print(f"{draft:<10}{ratio:14.2f}{whole:7.1f} dB{small:9.1f} dB")
    print_json("draft", **conditions(model), images=arguments.images, drafts=drafts)


if __name__ == "__main__":
    main()
