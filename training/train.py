"""Train a model from drawings to a model directory: ``python -m training.train --minutes 10 --device cuda``.

With ``--folder DIR`` it learns your own pictures with their captions instead of drawings (`training.folder`).
The steps run one after the other, each in a process of its own; those that are done are recognised and skipped, so the
same command continues after an interruption. With ``--minutes``, each step gets its share of what is left and stops in
time; without, it does its whole recipe.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.machine import add_machine_flags, command
from training.pictures import has_own_pictures
from training.recipe import add_size_flag


@dataclass(frozen=True)
class Step:
    """A part of the training.

    Attributes:
        name: under which the clock remembers it.
        module: to run.
        arguments: of the module.
        share: of the time, relative to the shares of the steps after it; 0 if it takes no ``--minutes``.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    share: float = 0.0


BATCHES = {
    "training.train_tokenizer": 48,
    "training.train_transformer": 256,
    "training.train_decoder": 32,
}
"""Images an update on a GPU, which is slow at small ones."""

SMALL_BATCHES = {"training.train_tokenizer": 4, "training.train_transformer": 16}
"""Images an update of the small networks on a CPU: they learn few pictures, and have minutes for it."""

UNTIMED = 2.0
"""Minutes that exporting twice and starting processes take, and scoring beside its own share."""

SHORTEST = 0.01
"""Minutes that a step gets at least; 0 would be no limit."""


def steps(options: argparse.Namespace) -> list[Step]:
    """The steps in order, without the minutes of each."""
    runs: Path = options.runs
    data = ("--data", str(options.data))
    machine = ("--device", options.device, "--threads", str(options.threads))
    size = ("--size", options.size)
    tokenizer, tokens = str(runs / "tokenizer"), str(runs / "tokens")
    transformer, decoder, draft = (str(runs / n) for n in ("transformer", "decoder", "draft"))
    known = ("--vocabulary", options.vocabulary)
    join = (*data, "--transformer", transformer, *known)

    def batch(module: str) -> tuple[str, ...]:
        if options.device.startswith("cuda"):
            return ("--batch-size", str(BATCHES[module]))
        if options.size == "small" and module in SMALL_BATCHES:
            return ("--batch-size", str(SMALL_BATCHES[module]))
        return ()

    # Compiling takes minutes, which a small network does not win back.
    eager = ("--no-compile",) if options.size == "small" else ()

    def training(module: str, share: float, *arguments: str) -> Step:
        return Step(module, f"training.{module}", (*data, *arguments, *machine), share)

    first, second, third = BATCHES
    # Pictures of one's own are no scenes, which alone can be scored by what is in them.
    name = ("--name", runs.resolve().name) if options.folder else ()
    scores = [] if options.folder else [Step("evaluate", "training.evaluate", (
        *data, "--model", str(options.out), *known, "--pictures", str(options.pictures), *machine,
    ))]  # fmt: skip
    return [
        *prepare(options),
        training("train_tokenizer", 0.42, "--run", tokenizer, *known, *size, *batch(first)),
        training("tokenize", 0.1, "--tokenizer", tokenizer, "--out", tokens, *known),
        training(
            "train_transformer", 0.34, "--tokenizer", tokenizer, "--tokens", tokens,
            "--run", transformer, *size, *batch(second), *eager,
        ),
        Step("draft", "training.export", (*join, "--tokenizer", tokenizer, "--out", draft, "--dtype", "float16")),
        training("train_decoder", 0.1, "--model", draft, "--run", decoder, *known, *batch(third)),
        Step("export", "training.export", (*join, "--tokenizer", decoder, "--out", str(options.out), *name)),
        *scores,
    ]  # fmt: skip


def prepare(options: argparse.Namespace) -> list[Step]:
    """The step that fills the data folder; none if it is filled."""
    out = ("--out", str(options.data))
    if options.folder:
        if has_own_pictures(options.data):
            return []
        return [Step("prepare", "training.prepare", (*out, "--folder", str(options.folder)))]
    if (options.data / "sprites").exists():
        return []
    packed = ("--from", str(options.packed)) if options.packed else ("--vocabulary", "full")
    return [Step("prepare", "training.prepare", (*out, *packed))]


def minutes_of(plan: Sequence[Step], at: int, left: float) -> float:
    """The minutes of step ``at`` of ``plan`` when ``left`` are left: its share among the steps that are to come."""
    shares = sum(step.share for step in plan[at:])
    return max(SHORTEST, (left - UNTIMED) * plan[at].share / shares) if plan[at].share else 0.0


class Clock:
    """Seconds that a training has taken, step by step, kept in a file over interruptions."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.finished: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}

    @property
    def minutes(self) -> float:
        """Of all steps that are finished."""
        return sum(self.finished.values()) / 60

    def finish(self, step: str, seconds: float) -> None:
        """Note that ``step`` took so long."""
        self.finished[step] = seconds
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self.finished, indent=1))


def run(plan: Sequence[Step], clock: Clock, minutes: float) -> None:
    """Run the steps of ``plan`` that ``clock`` has not seen finish.

    Raises:
        SystemExit: a step failed or was stopped; with its status.
    """
    for at, step in enumerate(plan):
        if step.name in clock.finished:
            continue
        command = [sys.executable, "-m", step.module, *step.arguments]
        if minutes and step.share:
            given = minutes_of(plan, at, minutes - clock.minutes)
            command += ["--minutes", f"{given:.3f}"]
        print(f"== {' '.join(command[2:])}", flush=True)
        started = time.monotonic()
        status = subprocess.run(command, check=False).returncode
        if status:
            raise SystemExit(status)
        clock.finish(step.name, time.monotonic() - started)


USABLE = 20.0
"""PSNR of reconstructions in dB; with less, a picture is hardly recognisable once it is tokens."""


def verdict(runs: Path) -> str:
    """Say how good the reconstructions of a training are, and what to do if they are bad; "" if nothing scored them."""
    scores: list[float] = []
    for step in ("tokenizer", "decoder"):  # the decoder's are of the same pictures, and later
        log = runs / step / "log.jsonl"
        lines = map(json.loads, log.read_text().splitlines()) if log.exists() else ()
        scores += [line["validation_psnr"] for line in lines if "validation_psnr" in line]
    if not scores:
        return ""
    said = f"reconstructions {scores[-1]:.1f} dB"
    if scores[-1] >= USABLE:
        return said
    return (
        f"{said}: not usable yet, for pictures are hardly recognisable below {USABLE:.0f} dB. "
        "Train again with more --minutes and another --runs"
    )


@command
def main() -> None:
    """Parse the command line and run what is left to do; a failing step ends it with its status."""
    parser = argparse.ArgumentParser(
        description="Train the default model, or one of your own pictures; stop and start it as you like."
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="what training.prepare writes; runs/data by default, with --folder the folder data in --runs",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="pictures of your own with their captions, in place of the drawings",
    )
    parser.add_argument(
        "--from",
        dest="packed",
        type=Path,
        help="packed drawings, if --data has none; else they are fetched",
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="where the steps keep their state"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="the model directory; weights/star-mini by default, with --folder the folder model in --runs",
    )
    parser.add_argument("--vocabulary", default="full", help="which things it learns")
    parser.add_argument("--pictures", type=int, default=60, help="of each split, to score it by")
    add_size_flag(parser)
    add_machine_flags(parser)
    options = parser.parse_args()
    own = options.folder is not None
    if own and options.packed:
        parser.error("--from is for drawings; --folder names pictures")
    options.data = options.data or (options.runs / "data" if own else Path("runs/data"))
    options.out = options.out or (options.runs / "model" if own else Path("weights/star-mini"))
    run(steps(options), Clock(options.runs / "clock.json"), options.minutes)
    if said := verdict(options.runs):
        print(f"== {said}", flush=True)


if __name__ == "__main__":
    main()
