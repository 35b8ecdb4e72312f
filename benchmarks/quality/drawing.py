"""Drawing a benchmark's images to files, in an order that can be left and taken up again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from benchmarks.quality.prompts import Prompt
from star_model import Engine, Sampling
from star_model.sampling import SEEDS

RUN = "run.json"
"""Says what the images in a folder are; images of another run are not mixed with them."""


class RunError(ValueError):
    """A folder that has images of another run in it."""


@dataclass(frozen=True)
class Drawing:
    """One image to draw: the prompt's number, which of its images, and where it goes."""

    prompt: int
    number: int
    file: Path


def layout(
    folder: Path, prompts: Sequence[Prompt], per_prompt: int, geneval: bool
) -> list[Drawing]:
    """All images of a run; GenEval's as its evaluator reads them: ``00000/samples/00000.png``."""

    def file(prompt: int, number: int) -> Path:
        if geneval:
            return folder / f"{prompt:05d}" / "samples" / f"{number:05d}.png"
        return folder / f"{prompt:06d}-{number:03d}.png"

    return [Drawing(p, n, file(p, n)) for p in range(len(prompts)) for n in range(per_prompt)]


def begin(folder: Path, run: dict[str, Any]) -> None:
    """Note in ``folder`` what is drawn there.

    Raises:
        RunError: it holds images of a run with other values, which are named.
    """
    noted = folder / RUN
    if noted.is_file():
        before = json.loads(noted.read_text(encoding="utf-8"))
        different = [key for key in run if before.get(key) != run[key]]
        if different:
            key = different[0]
            raise RunError(
                f"{folder} has images with {key} {before.get(key)}, not {run[key]}; choose another --out"
            )
        return
    if folder.is_dir() and any(folder.rglob("*.png")):
        raise RunError(f"{folder} has images in it already; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    noted.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def draw(
    engine: Engine,
    prompts: Sequence[Prompt],
    drawings: Sequence[Drawing],
    *,
    seed: int,
    sampling: Sampling,
    done: Callable[[int], None] = lambda images: None,
) -> None:
    """Draw all images that are not there yet, as many at a time as the engine has slots.

    An image has its final name only when it is complete, so a run may be ended at any moment and started again.

    Args:
        seed: of the first of ``drawings``; number ``i`` has ``seed + i``, whether it is drawn now or was before.
        done: called with the number of images after each batch.
    """
    missing = [(i, d) for i, d in enumerate(drawings) if not d.file.is_file()]
    done(len(drawings) - len(missing))
    for batch in _batches(missing, engine.total_slots):
        sequences = [
            engine.prepare(
                engine.model.encode_prompt(prompts[d.prompt].text),
                sampling,
                seed=(seed + i) % SEEDS,
            )
            for i, d in batch
        ]
        while not sequences[0].done:
            engine.step(sequences)
        for (_, drawing), pixels in zip(batch, engine.finish(sequences).cpu(), strict=True):
            _write(drawing.file, pixels)
        done(len(batch))


def _batches(
    items: Sequence[tuple[int, Drawing]], size: int
) -> Iterator[Sequence[tuple[int, Drawing]]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _write(file: Path, pixels: Tensor) -> None:
    """Write an image uint8 (H, W, 3)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    Image.fromarray(pixels.numpy()).save(partial, format="png")
    partial.rename(file)


def write_metadata(folder: Path, prompts: Sequence[Prompt]) -> None:
    """Write ``00000/metadata.jsonl`` and so on, which GenEval's evaluator reads beside the images."""
    for i, prompt in enumerate(prompts):
        file = folder / f"{i:05d}" / "metadata.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(dict(prompt.metadata) or {"prompt": prompt.text}), "utf-8")
