"""What the step to a larger picture costs: ``python -m training.resolution_step --data runs/data --tokens runs/few``.

STAR turns queries and keys by positions that are normalized to one square for all scales (section 3.3), and says that a
model trained at 256 pixels then needs little to paint 512. Here a small transformer learns twenty things from nothing:
the first scales, those of a 256 pixel picture, without ever seeing the others; then all scales for a few updates. With
``--positions counted`` another does the same with positions counted in tokens, as rotary embeddings usually have them.
Printed is what it foresees of unseen scenes (nats a token, scale by scale), and how many things are found in its
pictures, before the step, on the way, and after it. It can be stopped at any moment; the same command continues.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from star_model import Engine, StarModel
from star_model.networks.rope import rope_table
from star_model.networks.text_encoder import load_text_encoder
from star_model.networks.transformer import StarTransformer
from star_model.scales import ScaleSchedule
from training.concepts import read_vocabulary
from training.evaluate import Judge, make_splits
from training.likelihood import UnseenScenes
from training.painting import paint
from training.recipe import MODEL
from training.run import Run
from training.sprites import Sprites
from training.tokenize import TokenSet, load_tokenizer
from training.train_transformer import updates
from training.transformer_trainer import KEPT, Stage, Trainer, TransformerRecipe

Positions = Literal["normalized", "counted"]

CONFIG = dataclasses.replace(
    MODEL,
    name="star-micro",
    transformer=dataclasses.replace(MODEL.transformer, depth=4, num_heads=3),
)
SMALL = 7
"""Scales of a 256 pixel picture, whose last map has 8 x 8 tokens of 32 pixels."""
VOCABULARY = "few"
SEED = 5_000_000
"""Of the scenes that are painted."""


def counted_positions(schedule: ScaleSchedule, theta: float) -> Tensor:
    """The table (2, L, 32) of :func:`star_model.networks.rope.rope_table`; positions are counted, not normalized."""
    tables = []
    for side, (start, end) in zip(schedule.patch_nums, pairwise(schedule.offsets), strict=True):
        tables.append(rope_table(schedule, theta=theta, norm=side - 1)[:, start:end])
    return torch.cat(tables, dim=1)


def place(transformer: StarTransformer, positions: Positions) -> StarTransformer:
    """``transformer``, told its tokens' places in this way."""
    if positions == "counted":
        transformer.rope.copy_(
            counted_positions(transformer.schedule, transformer.config.rope_theta)
        )
    return transformer


class Scorer:
    """Measures weights on scenes that training never sees.

    Args:
        data: what training.prepare wrote.
        tokenizer: of which the tokens are, a run or a model directory.
        positions: how tokens are told their places.
        scenes: how many, of those that are foreseen and of those that are painted.
        device: where.
    """

    def __init__(
        self, data: Path, tokenizer: Path, positions: Positions, scenes: int, device: torch.device
    ) -> None:
        vqvae = load_tokenizer(tokenizer, device)
        encoder = load_text_encoder(
            data / "text_encoder", CONFIG.text_encoder, device=device, dtype=torch.float32
        )
        transformer = place(StarTransformer(CONFIG).to(device).eval(), positions)
        self._model = StarModel(CONFIG, transformer, vqvae, encoder, device, torch.float32)
        self._teacher = Trainer(
            CONFIG, TransformerRecipe(), vqvae, device
        )  # sees whole sequences; never trained
        place(self._teacher.model, positions)
        self._unseen = UnseenScenes.encoded(data, tokenizer, scenes, VOCABULARY)
        self._judge = Judge(Sprites(data), read_vocabulary(VOCABULARY))
        self._plain = make_splits(
            data, vocabulary=VOCABULARY, pictures=scenes, seed=SEED, two=False
        )["plain"]

    def scores(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """Nats a token of each scale, ``1x1`` and so on; shares in [0, 1] of the things that are found in pictures of
        the first ``SMALL`` scales, ``found_small``, and of all, ``found``."""
        for transformer in (self._teacher.model, self._model.transformer):
            transformer.load_state_dict(weights)
        losses, schedule = self._unseen.losses(self._teacher, 0.0), CONFIG.schedule
        nats = {
            label: losses[a:b].mean().item()
            for label, (a, b) in zip(schedule.labels, pairwise(schedule.offsets), strict=True)
        }
        return nats | {"found_small": self._found(SMALL), "found": self._found(len(schedule))}

    def _found(self, scales: int) -> float:
        engine = Engine(self._model, slots=1)
        pictures = [
            paint(engine, caption, SEED + i, scales=scales)
            for i, caption in enumerate(self._plain.captions)
        ]
        return self._judge.score(pictures, self._plain.scenes).object


def learn(run: Run, trainer: Trainer, scorer: Scorer, tokens: TokenSet) -> None:
    """Train to the end of the trainer's recipe, or until the run is stopped.

    Into the run's log go the scores of the averaged weights where the first stage ends, and after an eighth, a quarter,
    a half and the whole of the second, with the minutes of training so far.
    """
    recipe = trainer.recipe
    first, second = recipe.stages
    measured = {first.steps} | {first.steps + second.steps // part for part in (8, 4, 2, 1)}
    begin, measuring = 0, 0.0
    if state := run.resume():
        trainer.load(state)
        begin, measuring = state["step"], state["measuring"]
    for stage, step, batch in updates(tokens, recipe, begin):
        values = trainer.step(step, batch, stage)
        done = step + 1
        if done % 10 == 0:
            run.record(done, **values)
        if done in measured:
            before = run.seconds
            run.record(done, minutes=(before - measuring) / 60, **scorer.scores(trainer.average))
            measuring += run.seconds - before
        if done in measured or done % 100 == 0 or run.stopping:
            run.save(done, measuring=measuring, **trainer.state())
        if run.stopping:
            raise SystemExit(f"stopped after step {done}; the same command continues")


def table(log: list[dict[str, float]], small_steps: int) -> str:
    """The scores in Markdown, by updates after the step to the larger picture, and the minutes that these took."""
    measured = [line for line in log if "found" in line]
    names = [name for name in measured[0] if name not in ("step", "seconds", "minutes")]
    lines = ["| updates | minutes | " + " | ".join(names) + " |", "| --- " * (2 + len(names)) + "|"]
    for line in measured:
        minutes = line["minutes"] - measured[0]["minutes"]
        cells = [f"{line[n]:.0%}" if n.startswith("found") else f"{line[n]:.2f}" for n in names]
        lines.append(
            f"| {line['step'] - small_steps:.0f} | {minutes:.1f} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, train, print a table and a JSON line for each measurement."""
    parser = argparse.ArgumentParser(
        description="Measure what the step from 256 to 512 pixels costs."
    )
    parser.add_argument(
        "--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote"
    )
    parser.add_argument(
        "--tokens", type=Path, default=Path("runs/few"),
        help=f"what training.tokenize --vocabulary {VOCABULARY} --max-objects 1 wrote",
    )  # fmt: skip
    parser.add_argument("--tokenizer", type=Path, default=Path("weights/star-mini"))
    parser.add_argument(
        "--run", type=Path, default=Path("runs/resolution"), help="a folder for both runs"
    )
    parser.add_argument("--positions", choices=get_args(Positions), default="normalized")
    parser.add_argument(
        "--small-steps", type=int, default=800, help="updates of the first seven scales"
    )
    parser.add_argument("--large-steps", type=int, default=200, help="updates of all ten")
    parser.add_argument("--scenes", type=int, default=48, help="to measure on")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    recipe = TransformerRecipe(
        stages=(
            Stage(SMALL, arguments.small_steps, 24, rates=(1.0, 0.2)),
            Stage(len(CONFIG.schedule), arguments.large_steps, 12, kept=KEPT, rates=(0.4, 0.0)),
        ),
        ema=0.98,  # the step is short
    )
    settings = {
        "recipe": {k: v for k, v in dataclasses.asdict(recipe).items() if k != "stages"},
        "config": CONFIG.to_dict(), "positions": arguments.positions, "tokens": str(arguments.tokens),
    }  # fmt: skip
    run = Run(arguments.run / arguments.positions, settings, recipe.steps, recipe.history)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(CONFIG, recipe, load_tokenizer(arguments.tokenizer, device), device)
    place(trainer.model, arguments.positions)
    scorer = Scorer(
        arguments.data, arguments.tokenizer, arguments.positions, arguments.scenes, device
    )
    learn(run, trainer, scorer, TokenSet(arguments.tokens))
    for line in run.log():
        if "found" in line:
            print(json.dumps({"positions": arguments.positions} | line))
    print(f"\n{table(run.log(), arguments.small_steps)}")


if __name__ == "__main__":
    main()
