"""What a faster but inexact way changes: ``python -m benchmarks.bench_precision --images 16``.

The model runs twice in lockstep, exact (float32, guidance at all scales) and as the flags say. After each scale
the inexact one is given the exact one's tokens, so that every choice is made after the same history and with the
same random number: what is counted is the tokens that come out the same, scale by scale. Left to themselves two
runs part at the first token that differs, and are then two pictures rather than a good and a bad one.

The decoders are compared on the same latents, by the peak signal-to-noise ratio. What it saves is the ratio of the
two's times, image by image: of all scales and of the last, and of the decoder.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial

import torch

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
from star_model import Engine, ImageSequence


def follow(inexact: ImageSequence, exact: ImageSequence) -> None:
    """Put ``inexact`` where ``exact`` is; its keys and values stay its own."""
    assert exact.next_tokens is None or inexact.next_tokens is not None
    dtype = None if inexact.next_tokens is None else inexact.next_tokens.dtype
    inexact.tokens[-1], inexact.f_hat = exact.tokens[-1], exact.f_hat
    inexact.next_tokens = None if exact.next_tokens is None else exact.next_tokens.to(dtype)


@torch.inference_mode()
def compare(
    exact: Engine,
    inexact: Engine,
    images: int,
    tick: Callable[[], float] = time.perf_counter,
    unguided_scales: int = 0,
) -> tuple[list[float], float, dict[str, float]]:
    """What changes, and what is saved.

    Returns:
        the fraction of equal tokens at each scale, the decoders' PSNR in dB over images with values 0 to 255, and
        how many times faster all scales, the last and the decoder are.
    """
    watch = Stopwatch(exact.model.device, tick)
    engines = {"exact": exact, "inexact": inexact}
    texts = encode(exact.model, count=len(PROMPTS))
    same = [0.0] * exact.num_scales
    squares = 0.0
    for seed in range(images):
        text = texts[seed % len(texts)]
        (a,) = prepare(exact, [text], [seed])
        (b,) = prepare(inexact, [text], [seed], unguided_scales=unguided_scales)
        for scale in range(exact.num_scales):
            for (way, engine), sequence in zip(engines.items(), (a, b), strict=True):
                watch.time(f"{way} {scale}", partial(engine.step, [sequence]))
            same[scale] += (a.tokens[-1] == b.tokens[-1]).float().mean().item() / images
            follow(b, a)
        pixels = watch.time("exact decoder", partial(exact.finish, [a])).float()
        pixels -= watch.time("inexact decoder", partial(inexact.finish, [b])).float()
        squares += pixels.square().mean().item() / images
    for way in engines:
        scales = [watch.seconds[f"{way} {scale}"] for scale in range(exact.num_scales)]
        watch.seconds[f"{way} scales"] = [sum(image) for image in zip(*scales, strict=True)]
        watch.seconds[f"{way} last scale"] = scales[-1]
    faster = {
        part: watch.ratio(f"exact {part}", f"inexact {part}")
        for part in ("scales", "last scale", "decoder")
    }
    return same, 20 * math.log10(255) - 10 * math.log10(squares) if squares else math.inf, faster


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description="Count the tokens that a faster but inexact way changes."
    )
    add_model_arguments(parser)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument(
        "--unguided-scales", type=int, default=0, help="last scales without guidance"
    )
    arguments = parser.parse_args()
    inexact = open_model(arguments)
    arguments.dtype = "float32"
    exact = open_model(arguments)
    same, psnr, faster = compare(
        Engine(exact, slots=1),
        Engine(inexact, slots=1),
        arguments.images,
        clock(arguments),
        arguments.unguided_scales,
    )
    lengths = exact.config.schedule.lengths
    total = sum(s * n for s, n in zip(same, lengths, strict=True)) / sum(lengths)

    print(
        f"{heading(inexact)}, {arguments.unguided_scales} scales without guidance, against float32 with it"
    )
    for label, fraction in zip(exact.config.schedule.labels, same, strict=True):
        print(f"{f'scale {label}':14}{100 * fraction:8.2f} % of tokens the same")
    print(f"{'all':14}{100 * total:8.2f} % of tokens the same")
    print(f"decoder: {psnr:.1f} dB")
    print("times faster: " + ", ".join(f"{part} {ratio:.2f}" for part, ratio in faster.items()))
    print_json(
        "precision",
        **conditions(inexact),
        unguided_scales=arguments.unguided_scales,
        same_tokens=total,
        same_tokens_by_scale=same,
        times_faster=faster,
        decoder_psnr_db=psnr if math.isfinite(psnr) else None,
    )


if __name__ == "__main__":
    main()
