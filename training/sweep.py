"""Score a model's sampling settings against each other: ``python -m training.sweep --model weights/star-mini``.

The same captions and seeds are painted with every setting and scored as in ``training.evaluate``. It prints a Markdown
table, best first by objects found, and a JSON line for each setting as it comes.

With ``--real-scales`` the first scales are not painted but those of the real scene: what is then still missed is what
the scales after them cannot do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from itertools import product
from pathlib import Path

import torch

from star_model import load_model, make_edit
from training.concepts import load_concepts
from training.evaluate import SIZE, Judge, Painter, Score, make_splits
from training.machine import command
from training.scenes import render
from training.sprites import Sprites

SWEPT = ("guidance_scale", "top_k", "top_p", "smooth_scales")
GUIDANCE = (1.0, 2.5, 4.0, 6.0)
TOP_K = (100, 600)
TOP_P = (0.3, 0.6, 0.9)
SMOOTH_SCALES = (0, 8)


def table(rows: list[tuple[dict[str, float], Score]]) -> str:
    """The settings and their scores in Markdown."""
    lines = [
        "| guidance | top-k | top-p | smooth scales | real scales | object | style | colour |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for setting, score in sorted(rows, key=lambda row: -row[1].object):
        given = " | ".join(f"{setting[name]:g}" for name in (*SWEPT, "real_scales"))
        lines.append(f"| {given} | {score.object:.0%} | {score.style:.0%} | {score.colour:.0%} |")
    return "\n".join(lines)


@command
def main() -> None:
    """Parse the command line, paint with each setting, score."""
    parser = argparse.ArgumentParser(description="Compare sampling settings by their scores.")
    parser.add_argument("--model", type=Path, default=Path("weights/star-mini"))
    parser.add_argument(
        "--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote"
    )
    parser.add_argument("--vocabulary", default="starter", help="which concepts are asked for")
    parser.add_argument("--pictures", type=int, default=48, help="for each setting")
    parser.add_argument(
        "--seed", type=int, default=2_000_000, help="of the scenes: not those of evaluate"
    )
    parser.add_argument("--guidance-scale", type=float, nargs="+", default=GUIDANCE)
    parser.add_argument("--top-k", type=int, nargs="+", default=TOP_K)
    parser.add_argument("--top-p", type=float, nargs="+", default=TOP_P)
    parser.add_argument("--smooth-scales", type=int, nargs="+", default=SMOOTH_SCALES)
    parser.add_argument(
        "--real-scales", type=int, nargs="+", default=(0,), help="the first so many are given"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model, sprites = load_model(arguments.model), Sprites(arguments.data)
    judge = Judge(sprites, (c.label for c in load_concepts(arguments.data, arguments.vocabulary)))
    plain = make_splits(
        arguments.data,
        vocabulary=arguments.vocabulary,
        pictures=arguments.pictures,
        seed=arguments.seed,
    )["plain"]
    real = [torch.from_numpy(render(scene, sprites, SIZE)) for scene in plain.scenes]
    rows = []
    choices = (arguments.guidance_scale, arguments.top_k, arguments.top_p, arguments.smooth_scales)
    for *values, given in product(*choices, arguments.real_scales):
        setting = dict(zip(SWEPT, values, strict=True))
        painter = Painter(model, setting)
        pictures = [
            painter.paint(
                caption,
                arguments.seed + i,
                make_edit(model, real[i], keep_scales=given) if given else None,
            )
            for i, caption in enumerate(plain.captions)
        ]
        setting["real_scales"] = given
        rows.append((setting, judge.score(pictures, plain.scenes)))
        print(json.dumps(setting | dataclasses.asdict(rows[-1][1])), flush=True)
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
