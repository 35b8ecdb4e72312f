"""Draw a benchmark as its paper did, score it, and print the paper's figures beside: one command for all of it.

    python -m benchmarks.quality --model star-512 --benchmark mjhq --prompts meta_data.json --references mjhq30k_imgs \\
        --inception pt_inception-2015-12-05.pth --out runs/mjhq

May be ended at any moment; the same command goes on where it was. GenEval's images are laid out for its own evaluator,
which scores them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from benchmarks.quality.drawing import Drawing, RunError, begin, draw, layout, write_metadata
from benchmarks.quality.lite_distance import lite_distance
from benchmarks.quality.prompts import Prompt, PromptsError, read_prompts
from benchmarks.quality.protocols import BENCHMARKS, PUBLISHED, Protocol, protocol_of
from benchmarks.quality.references import ReferencesError, find_references, prepare
from benchmarks.quality.scores import MissingError, clip_score, fid, image_reward
from benchmarks.workload import add_model_arguments, conditions, open_model, print_json
from star_model import Engine, StarModel
from star_model.networks.precision import choose_device

METRICS = ("fid", "clip_score", "image_reward", "lite_distance")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description="Draw a benchmark as its paper did, score it, and print the paper's figures beside.",
    )
    add_model_arguments(flags)
    flags.add_argument("--benchmark", choices=BENCHMARKS, default="own")
    flags.add_argument(
        "--prompts",
        type=Path,
        help="MJHQ's, COCO's or GenEval's file, or a prompt a line; needless for imagenet",
    )
    flags.add_argument("--references", type=Path, help="folder of real images, for the FID")
    flags.add_argument("--out", type=Path, required=True, help="folder of images and scores")
    flags.add_argument("--count", type=int, help="only the first so many prompts")
    flags.add_argument(
        "--per-prompt", type=int, help="images of a prompt; the protocol's if absent"
    )
    flags.add_argument("--seed", type=int, help="of the first image; the protocol's if absent")
    flags.add_argument("--draft", type=int, default=0, choices=(0, 1, 2), help="scales left out")
    flags.add_argument("--batch", type=int, default=8, help="images at a time")
    flags.add_argument("--inception", type=Path, help="file of the FID Inception weights")
    flags.add_argument(
        "--clip", help="CLIP model, a name or a folder, or none; the protocol's if absent"
    )
    flags.add_argument("--image-reward", help="ImageReward-v1.0, or the file of its weights")
    flags.add_argument(
        "--lite", action="store_true", help="a Fréchet distance whose weights a package has, too"
    )
    flags.add_argument("--only", choices=("draw", "score"), help="one of the two steps")
    return flags


@dataclass(frozen=True)
class Run:
    """What is drawn and where: the arguments, with what they leave to the protocol filled in."""

    arguments: argparse.Namespace
    protocol: Protocol
    prompts: list[Prompt]

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Run:
        """Read the prompts and choose the protocol.

        Raises:
            PromptsError: they cannot be read, or there are none.
        """
        if arguments.prompts is not None:
            prompts = read_prompts(arguments.prompts)
        elif arguments.benchmark == "imagenet":
            prompts = [Prompt(str(number)) for number in range(1000)]
        else:
            raise PromptsError("--prompts FILE is missing")
        protocol = protocol_of(arguments.benchmark, arguments.preset or arguments.model)
        return cls(arguments, protocol, prompts[: arguments.count])

    @property
    def model(self) -> str:
        return str(self.arguments.preset or self.arguments.model)

    @property
    def images(self) -> Path:
        return Path(self.arguments.out) / "images"

    @property
    def seed(self) -> int:
        given = self.arguments.seed
        return self.protocol.seed if given is None else int(given)

    @property
    def drawings(self) -> list[Drawing]:
        per_prompt = self.arguments.per_prompt or self.protocol.per_prompt
        return layout(self.images, self.prompts, per_prompt, self.arguments.benchmark == "geneval")

    def describe(self) -> dict[str, Any]:
        """What makes the images what they are, for the note beside them; their number may grow."""
        sampling = {**self.protocol.sampling, "draft": self.arguments.draft}
        return {
            "model": self.model,
            "protocol": self.arguments.benchmark,
            "first_prompt": self.prompts[0].text,
            "per_prompt": self.arguments.per_prompt or self.protocol.per_prompt,
            "seed": self.seed,
            "sampling": sampling,
        }


def bar(total: int, what: str) -> Callable[[int], None]:
    """A progress bar, as the function that advances it."""
    shown = tqdm(total=total, desc=what, unit="image")

    def advance(images: int) -> None:
        shown.update(images)
        if shown.n >= total:
            shown.close()

    return advance


def draw_all(run: Run, model: StarModel) -> dict[str, Any]:
    """Draw what is missing; returns under what conditions."""
    begin(run.images, run.describe())
    engine = Engine(model, slots=run.arguments.batch, mode="fast")
    changes = {**run.protocol.sampling, "draft": run.arguments.draft}
    draw(
        engine,
        run.prompts,
        run.drawings,
        seed=run.seed,
        sampling=model.config.sampling.changed(changes),
        done=bar(len(run.drawings), "drawing"),
    )
    if run.arguments.benchmark == "geneval":
        write_metadata(run.images, run.prompts)
    return conditions(model)


def score(run: Run) -> dict[str, float | str]:
    """Compute the scores that are not noted yet; one that cannot be is the sentence that says why.

    Those that were computed are noted in ``scores.json``, by the number of images.

    Raises:
        RunError: there are more images than are asked for, or less.
    """
    there = sum(1 for _ in run.images.rglob("*.png"))
    if there != len(run.drawings):
        raise RunError(f"{run.images} has {there} images, not {len(run.drawings)}; draw all first")
    noted = Path(run.arguments.out) / "scores.json"
    all_scores = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else {}
    key = str(len(run.drawings))
    found: dict[str, float | str] = dict(all_scores.get(key, {}))
    for metric in METRICS:
        if isinstance(found.get(metric), float):
            continue
        try:
            value = compute(run, metric)
        except MissingError as error:
            found[metric] = str(error)
            continue
        if value is not None:
            found[metric] = value
            all_scores[key] = {m: v for m, v in found.items() if isinstance(v, float)}
            noted.write_text(json.dumps(all_scores, indent=2) + "\n", encoding="utf-8")
    if run.arguments.benchmark == "geneval":
        found["geneval"] = f"run GenEval's evaluate_images.py on {run.images}"
    return found


def compute(run: Run, metric: str) -> float | None:
    """One score; None if it is not asked for.

    Raises:
        MissingError: what it needs is not there.
    """
    arguments, device = run.arguments, choose_device(run.arguments.device)
    pairs = [(d.file, run.prompts[d.prompt].text) for d in run.drawings]
    if metric in ("fid", "lite_distance"):
        if arguments.references is None or (metric == "lite_distance" and not arguments.lite):
            return None
        with Image.open(run.drawings[0].file) as first:
            size = first.width
        references = Path(arguments.out) / f"references-{size}-{run.protocol.crop}"
        files = find_references(arguments.references)
        prepare(files, references, size, run.protocol.crop, bar(len(files), "references"))
        if metric == "fid":
            return fid(run.images, references, arguments.inception, device)
        both = bar(len(pairs) + len(files), "lite distance")
        return lite_distance(run.images, references, device, both)
    if metric == "clip_score" and arguments.clip == "none":
        return None
    if metric == "clip_score":
        name = arguments.clip or run.protocol.clip
        return clip_score(pairs, name, device, done=bar(len(pairs), "CLIP score"))
    if arguments.image_reward is None:
        return None
    return image_reward(pairs, arguments.image_reward, done=bar(len(pairs), "ImageReward"))


def report(run: Run, found: dict[str, float | str]) -> None:
    """Print the table."""
    model, benchmark = run.model, run.arguments.benchmark
    published = PUBLISHED.get((benchmark, model))
    print(
        f"{model}, {benchmark}: {len(run.prompts)} prompts, {len(run.drawings)} images, seed {run.seed}"
    )
    print(f"protocol: {run.protocol.source}")
    if not found:
        print(f"the images are in {run.images}; the same command with --only score scores them")
        return
    print(f"{'':14}{'here':>12}{'published':>12}")
    for metric, value in found.items():
        paper = getattr(published, metric, None)
        here = f"{value:.4g}" if isinstance(value, float) else "-"
        print(f"{metric:14}{here:>12}{'-' if paper is None else f'{paper:g}':>12}")
    for metric, value in found.items():
        if isinstance(value, str):
            print(f"{metric}: {value}")
    if published is not None:
        print(f"published: {published.source}; {published.caution}")


def main() -> None:
    """Parse the command line, draw, score, print."""
    flags = parser()
    arguments = flags.parse_args()
    try:
        run = Run.of(arguments)
        machine = {} if arguments.only == "score" else draw_all(run, open_model(arguments))
        found = {} if arguments.only == "draw" else score(run)
    except (PromptsError, ReferencesError, RunError) as error:
        flags.exit(2, f"{flags.prog}: {error}\n")  # no usage: it would hide the sentence
    report(run, found)
    print_json("quality", **{**machine, **run.describe()}, images=len(run.drawings), scores=found)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
