"""Train the transformer on tokenized scenes: ``python -m training.train_transformer --tokens ... --run ...``."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from star_model.config import ModelConfig
from star_model.engine.engine import Engine
from star_model.model import StarModel
from star_model.networks.image_tokenizer import ImageTokenizer
from star_model.networks.precision import has_fast_bfloat16
from star_model.networks.text_encoder import load_text_encoder
from star_model.networks.transformer import StarTransformer
from training.machine import Budget, add_machine_flags, command, loader_workers, use_machine
from training.painting import paint
from training.pictures import FolderPictures, has_own_pictures
from training.recipe import MODEL, SIZES, add_size_flag
from training.run import Run, batches
from training.tokenize import TokenSet, config_of, load_tokenizer, trained_weights
from training.transformer_trainer import ALTERNATING, KEPT, Batch, Stage, Trainer, TransformerRecipe

PROMPTS = (
    "a red apple on a blue background",
    "a fox, flat style, on a white background",
    "3d render of a rocket on a yellow background",
    "a cartoon penguin on a light blue background",
    "a guitar on green",
    "a snowman, 3d style, on a purple background",
    "a sunflower on a pink background, flat style",
    "a cartoon of a castle on an orange background",
)
"""What the sample sheet shows; fixed before training, so nobody picks."""


class Examples(Dataset[Batch]):
    """Tokenized scenes in a new random order each epoch, each with its next caption; item ``i`` is always the same."""

    def __init__(self, tokens: TokenSet, recipe: TransformerRecipe) -> None:
        self.tokens, self.recipe = tokens, recipe
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, index: int) -> Batch:
        epoch, position = divmod(index, len(self.tokens))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.recipe.seed, epoch)).permutation(
                len(self.tokens)
            )
        i = self._order[position]
        tokens, (hidden, length, pooled) = self.tokens.captioned(i, epoch)
        if (
            np.random.default_rng((self.recipe.seed, 1, index)).random()
            < self.recipe.caption_dropout
        ):
            hidden, length, pooled = self.tokens.empty
        return (
            torch.from_numpy(tokens.astype(np.int64)),
            torch.from_numpy(np.array(hidden)),
            torch.tensor(length),
            torch.from_numpy(np.array(pooled)),
        )


Clock = Callable[[], float]
"""Seconds of this training so far, interruptions not counted."""


def updates(
    tokens: TokenSet,
    recipe: TransformerRecipe,
    first: int,
    clock: Clock = lambda: 0.0,
    workers: int = 1,
) -> Iterator[tuple[Stage, int, float, Batch]]:
    """The updates of ``recipe`` from number ``first`` on: stage, number, fraction of the peak rates, and batch.

    With ``recipe.minutes`` a stage ends when its share of them is over, else after its updates.
    """
    examples, begin, start_at, step = Examples(tokens, recipe), 0, 0.0, first
    for stage in recipe.stages:
        seconds = 60 * recipe.minutes * stage.share
        budget = Budget(stage.steps, seconds / 60)
        end = step + 10**6 if seconds else begin + stage.steps
        # A new run makes one update of each stage, however slowly it starts: the next step needs its state.
        if first == 0 or budget.progress(step - begin, clock() - start_at) < 1:
            loader = batches(
                examples, start=step, stop=end, batch_size=stage.batch_size, workers=workers
            )
            for number, batch in enumerate(loader):
                progress = budget.progress(step - begin, clock() - start_at)
                if progress >= 1 and number:
                    break
                yield stage, step, stage.rate(progress) * recipe.warm(step), batch
                step += 1
        begin, start_at = begin + stage.steps, start_at + seconds


class Painter:
    """Paints the sample sheet with the averaged weights, through the engine that serves users."""

    def __init__(
        self, data: Path, config: ModelConfig, vqvae: ImageTokenizer, device: torch.device
    ) -> None:
        self._prompts = prompts_of(data)
        encoder = load_text_encoder(
            data / "text_encoder", config.text_encoder, device=device, dtype=torch.float32
        )
        transformer = StarTransformer(config).to(device).eval()
        self.model = StarModel(config, transformer, vqvae, encoder, device, torch.float32)

    def paint(self, average: dict[str, Tensor], scales: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images (N, 512, 512, 3) of the prompts, after the first ``scales`` scales."""
        self.model.transformer.load_state_dict(average)
        engine = Engine(
            self.model, slots=1
        )  # a new one: it keeps what the weights before made of the empty prompt
        pictures = [paint(engine, p, seed, scales=scales) for seed, p in enumerate(self._prompts)]
        return np.stack(pictures)


def prompts_of(data: Path) -> Sequence[str]:
    """What the sample sheet shows: :data:`PROMPTS`, or captions of pictures of one's own."""
    if not has_own_pictures(data):
        return PROMPTS
    return FolderPictures(data).prompts(len(PROMPTS))


def train(arguments: argparse.Namespace, recipe: TransformerRecipe, config: ModelConfig) -> None:
    """Train to the end of ``recipe``, continuing what the run directory holds."""
    device = use_machine(arguments)
    recipe = dataclasses.replace(recipe, minutes=arguments.minutes)
    check_tokenizer(arguments.tokenizer, config)
    vqvae = load_tokenizer(arguments.tokenizer, device)
    constants = {
        k: v for k, v in dataclasses.asdict(recipe).items() if k not in ("stages", "minutes")
    }
    tokens = TokenSet(arguments.tokens)
    settings = {
        "recipe": constants, "config": config.to_dict(), "init": str(arguments.init or ""), "scenes": len(tokens),
    }  # fmt: skip
    history = (
        (lambda _: None) if recipe.minutes else recipe.history
    )  # by the clock, no run is like another
    run = Run(arguments.run, settings, recipe.steps, history, recipe.minutes)
    trainer = Trainer(config, recipe, vqvae, device, compiled=arguments.compile)
    painter = Painter(arguments.data, config, vqvae, device)
    first = 0
    if state := run.resume():
        trainer.load(state)
        first = state["step"]
    elif arguments.init:
        trainer.start_from(trained_weights(arguments.init, "transformer.safetensors", "average"))
    ends = set(accumulate(stage.steps for stage in recipe.stages))
    saved, stage, done = time.monotonic(), recipe.stages[-1], first
    workers = min(4, loader_workers(device))
    for stage, step, rate, batch in updates(
        tokens, recipe, first, lambda: run.seconds, workers=workers
    ):
        values = trainer.step(step, batch, stage, rate)
        done = step + 1
        if done % 10 == 0:
            run.record(done, **values)
        if time.monotonic() - saved > 60 * arguments.save_minutes or done in ends or run.stopping:
            keep(run, trainer, painter, done, stage)
            saved = time.monotonic()
        if run.stopping:
            raise SystemExit(f"stopped after step {done}; the same command continues")
    if recipe.minutes and done > first:
        keep(run, trainer, painter, done, stage)


def check_tokenizer(directory: Path, config: ModelConfig) -> None:
    """Check that the image tokenizer in ``directory`` is that of ``config``.

    Raises:
        ValueError: it is not.
    """
    found = config_of(directory)
    if (found.tokenizer, found.patch_nums) != (config.tokenizer, config.patch_nums):
        raise ValueError(
            f"the image tokenizer in {directory} is not that of {config.name}: give it the same --size, "
            "or the tokenizer of another training"
        )


def keep(run: Run, trainer: Trainer, painter: Painter, done: int, stage: Stage) -> None:
    """Save the state after ``done`` updates, its curves and a sheet of samples."""
    run.save(done, **trainer.state())
    run.draw_curves(["loss", "coarse_loss"])
    run.write_sheet("samples", painter.paint(trainer.average, stage.scales), columns=4)


def stage_of(words: Sequence[str], fine_every: int = 1) -> Stage:
    """The stage that ``--stage`` describes: scales, updates, images an update, rates at its start and its end.

    Args:
        words: five numbers.
        fine_every: how often an update of a stage of all scales learns the fine ones.

    Raises:
        ValueError: a word is no number, or out of range.
    """
    try:
        scales, steps, batch_size = (int(word) for word in words[:3])
        first, last = (float(word) for word in words[3:])
    except ValueError:
        raise ValueError(
            f"needs three whole numbers and two rates, got {' '.join(words)}"
        ) from None
    if not (2 <= scales <= len(MODEL.schedule) and min(steps, batch_size) >= 1):
        raise ValueError(
            f"scales must be 2 to {len(MODEL.schedule)}, updates and images at least 1"
        )
    if fine_every < 1:
        raise ValueError(f"--fine-every counts updates, so it is at least 1, not {fine_every}")
    if not (0 <= first <= 1 and 0 <= last <= 1):
        raise ValueError("rates are fractions of the peak, 0 to 1")
    stage = Stage(scales, steps, batch_size, rates=(first, last))
    if scales < len(MODEL.schedule):
        return stage
    whole = ALTERNATING if fine_every > 1 else stage.whole
    return dataclasses.replace(stage, kept=KEPT, whole=whole, fine_every=fine_every)


def command_line() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(
        description="Train the transformer; stop and start it as you like."
    )
    for flag, folder, meaning in (
        ("--data", "runs/data", "what training.prepare wrote"),
        ("--tokens", "runs/tokens", "what training.tokenize wrote"),
        ("--tokenizer", "runs/tokenizer", "the tokenizer's run"),
        ("--run", "runs/transformer", "the run's directory"),
    ):
        parser.add_argument(flag, type=Path, default=Path(folder), help=meaning)
    parser.add_argument(
        "--init",
        type=Path,
        help="a run or a model directory whose averaged weights a new run begins with",
    )
    parser.add_argument(
        "--stage",
        nargs=5,
        action="append",
        metavar=("SCALES", "UPDATES", "IMAGES", "RATE", "RATE"),
        help="a part of the training in place of the recipe's, given again for the next: scales, updates, images an "
        "update, and the fractions of the peak learning rates at its start and at its end",
    )
    parser.add_argument(
        "--fine-every",
        type=int,
        nargs="+",
        default=[1],
        metavar="N",
        help=f"of a --stage of all scales, only every Nth update learns all, on a quarter of its images; the others "
        f"learn the first {ALTERNATING}; for each stage in turn, the last number for those that are left",
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=shutil.which("g++") is not None
        and (torch.cuda.is_available() or has_fast_bfloat16()),
        help="compile the network; by default on a GPU and on processors that are fast at bfloat16, where it was "
        "found to save time, if there is a C++ compiler",
    )
    add_size_flag(parser)
    add_machine_flags(parser)
    parser.add_argument(
        "--save-minutes", type=float, default=5, help="minutes between two saved states"
    )
    return parser


@command
def main() -> None:
    """Parse the command line and train."""
    parser = command_line()
    parser.add_argument("--batch-size", type=int, help="images an update, in all stages")
    arguments = parser.parse_args()
    recipe = TransformerRecipe()
    if arguments.stage:
        try:
            every = chain(arguments.fine_every, repeat(arguments.fine_every[-1]))
            stages = tuple(stage_of(*pair) for pair in zip(arguments.stage, every, strict=False))
            recipe = dataclasses.replace(recipe, stages=stages)
        except ValueError as error:
            parser.error(f"--stage: {error}")
    if arguments.batch_size:
        size = arguments.batch_size
        stages = tuple(dataclasses.replace(s, batch_size=size) for s in recipe.stages)
        recipe = dataclasses.replace(recipe, stages=stages)
    train(arguments, recipe, SIZES[arguments.size])


if __name__ == "__main__":
    main()
