"""Train the transformer on tokenized scenes: ``python -m training.train_transformer --tokens ... --run ...``.

Tokens of a scale depend on coarser scales alone, so training may begin with the first scales only, where an image is
155 tokens instead of 680, and add the fine ones later: what is learnt first is exactly what the whole model needs.
In the last stage a random part of the fine tokens is left out, as queries and as keys (STAR, section 4.1); those near
the border, where seldom anything is but background, more often than others.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from star_model.attention import sdpa
from star_model.config import ModelConfig
from star_model.engine import Engine
from star_model.model import StarModel
from star_model.precision import has_fast_bfloat16
from star_model.scales import ScaleSchedule
from star_model.text_encoder import load_text_encoder
from star_model.transformer import StarTransformer
from star_model.vqvae import VQVAE
from training.mistakes import Lesson, make_lesson
from training.muon import Muon
from training.painting import paint
from training.precision import autocast
from training.recipe import MODEL
from training.run import Run, batches
from training.tokenize import TokenSet, load_tokenizer, trained_weights

Batch = tuple[
    Tensor, Tensor, Tensor, Tensor
]  # tokens (B, L), text hidden (B, T, D), its lengths (B,), pooled (B, D)

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


RIM = 1 / 8
"""How far from the border, as a fraction of the side, a token is seldom anything but background."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the training.

    Args:
        scales: how many scales are learnt.
        steps: updates.
        batch_size: images an update.
        kept: of the tokens beyond ``whole`` scales, how many take part in an update; the others are left out.
        whole: scales that always take part wholly.
        rates: fraction of the peak learning rates at the stage's first update and at its end, linear between.
    """

    scales: int
    steps: int
    batch_size: int
    kept: int = 0
    whole: int = 7
    rates: tuple[float, float] = (1.0, 1.0)

    def rate(self, step: int) -> float:
        """Fraction of the peak learning rates at update ``step`` of the stage."""
        first, last = self.rates
        return first + (last - first) * step / self.steps


@dataclasses.dataclass(frozen=True)
class TransformerRecipe:
    """Hyperparameters of a run.

    The attentions' temperatures start higher than the published 4 and learn ten times faster than other vectors: at
    the common rate they had moved from 4 to 5 after a thousand updates, too soft to look at one place or one word.

    Of the pictures, a share of ``clean`` is seen as it is; in the others up to ``mistakes`` of the tokens are wrong.
    ``softness`` is that of the targets: see :func:`training.mistakes.make_lesson`.
    """

    seed: int = 0
    peak_lr: float = 1.2e-3
    matrix_lr: float = 0.02
    warmup: int = 50
    weight_decay: float = 0.02
    temperature: float = 10.0
    temperature_lr: float = 0.01
    caption_dropout: float = 0.1
    mistakes: float = 0.3
    clean: float = 0.4
    softness: float = 0.4
    ema: float = 0.998
    stages: tuple[Stage, ...] = (
        Stage(7, 3800, 48, rates=(1.0, 0.3)),
        Stage(10, 5000, 24, kept=256, rates=(0.3, 0.0)),
    )

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def rate(self, step: int) -> float:
        """Fraction of the peak learning rates at update ``step``: a linear warm-up, then what the stage says."""
        begin = 0
        for stage in self.stages:
            if step < begin + stage.steps:
                return stage.rate(step - begin) * min(1.0, (step + 1) / self.warmup)
            begin += stage.steps
        raise IndexError(f"update {step} of {begin}")

    def history(self, steps: int) -> list[tuple[Any, ...]]:
        """What the first ``steps`` updates are made of, however the stages go on after them."""
        stages = [
            dataclasses.replace(stage, steps=0, rates=(0.0, 0.0))
            for stage in self.stages
            for _ in range(stage.steps)
        ]
        return [(*dataclasses.astuple(stages[i]), self.rate(i)) for i in range(steps)]


def interest(schedule: ScaleSchedule, first: int) -> Tensor:
    """How often a token of the scales from ``first`` on is worth learning, relative to others: positive, one for each.

    Each scale counts as much as its side, not as its area: a token of a coarser scale decides more of the picture. Near
    the border, ``RIM`` of the side, a token counts a quarter.
    """
    weights = []
    for side in schedule.patch_nums[first:]:
        centre = (torch.arange(side) + 0.5) / side
        inner = torch.minimum(centre, 1 - centre) > RIM
        weights.append(torch.where(inner.outer(inner), 1.0, 0.25).flatten() / side)
    return torch.cat(weights)


class Examples(Dataset[Batch]):
    """Tokenized scenes in a new random order each epoch; item ``i`` is always the same."""

    def __init__(self, tokens: TokenSet, recipe: TransformerRecipe) -> None:
        self.tokens, self.recipe = tokens, recipe
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, index: int) -> Batch:
        epoch, position = divmod(index, len(self.tokens))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.recipe.seed, epoch)).permutation(len(self.tokens))
        i = self._order[position]
        tokens, (hidden, length, pooled) = self.tokens[i]
        if np.random.default_rng((self.recipe.seed, 1, index)).random() < self.recipe.caption_dropout:
            hidden, length, pooled = self.tokens.empty
        return (
            torch.from_numpy(tokens.astype(np.int64)),
            torch.from_numpy(np.array(hidden)),
            torch.tensor(length),
            torch.from_numpy(np.array(pooled)),
        )


def materialized(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention that stores its weights: with a mask and a few hundred tokens, a CPU's fastest."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    scores = q @ k.mT  # (B, H, L, T)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    out: Tensor = (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2)
    return out


def token_losses(
    model: StarTransformer,
    inputs: Tensor,
    candidates: Tensor,
    weights: Tensor,
    text: tuple[Tensor, Tensor, Tensor],
    rope: Tensor,
    scale_of: Tensor,
) -> Tensor:
    """Cross-entropy (B, N) of soft targets, all coarser scales given.

    Args:
        candidates: (B, N, K) tokens that are right.
        weights: (B, N, K) how much of the target each is.
        model, inputs, text, rope, scale_of: see :func:`token_logits`.
    """
    logits = token_logits(model, inputs, text, rope, scale_of)
    likelihoods = F.log_softmax(logits.float(), dim=-1).gather(2, candidates)
    return -(weights * likelihoods).sum(dim=2)


def token_logits(
    model: StarTransformer,
    inputs: Tensor,
    text: tuple[Tensor, Tensor, Tensor],
    rope: Tensor,
    scale_of: Tensor,
) -> Tensor:
    """Logits (B, N, V) of tokens of all scales at once, all coarser ones given.

    Args:
        inputs: (B, N - 1, z) what the quantizer feeds to all tokens but the first.
        text: hidden states (B, T, D), their lengths (B,), pooled features (B, D).
        rope: (2, N, 32) of the tokens' positions.
        scale_of: (N,) the scale of each token.
    """
    hidden, lengths, pooled = text
    with autocast(inputs.device):
        keys_values = model.text_keys_values(hidden)
        later = model.token_projection(inputs) + model.scale_embedding(scale_of[1:])
        if model.config.place_features:
            later = later + model.place_features(rope[:, 1:])
        x = torch.cat([model.embed_start(pooled), later], dim=1)
        mask = scale_of.unsqueeze(1) >= scale_of.unsqueeze(0)
        logits: Tensor = model(x, rope, TeacherForcing(keys_values, lengths), mask)
    return logits


class TeacherForcing:
    """The key/value context of training: all tokens are in the batch, nothing is stored between steps."""

    def __init__(self, text: Tensor, lengths: Tensor) -> None:
        self._text = text  # (layers, 2, B, T, H, 64)
        self.text_mask = (torch.arange(text.shape[3], device=text.device) < lengths.unsqueeze(1))[
            :, None, None, :
        ]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v

    def text(self, layer: int) -> tuple[Tensor, Tensor]:
        k, v = self._text[layer]
        return k, v


class Trainer:
    """The transformer on its way: weights, their moving average, and two optimizers.

    Matrices of the blocks are updated by Muon (orthogonalized momentum), the rest by AdamW.
    """

    def __init__(
        self,
        config: ModelConfig,
        recipe: TransformerRecipe,
        vqvae: VQVAE,
        device: torch.device,
        *,
        compiled: bool = False,
    ) -> None:
        self.config, self.recipe, self.device = config, recipe, device
        self.schedule = config.schedule
        self.quantizer = vqvae.quantizer
        self.token_losses = torch.compile(token_losses, dynamic=False) if compiled else token_losses
        torch.manual_seed(recipe.seed)
        attend = sdpa if device.type == "cuda" else materialized
        self.model = StarTransformer(config, attend).to(device)
        initialize(self.model, recipe.temperature)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        matrices = [
            p for n, p in self.model.named_parameters() if n.startswith("blocks.") and n.endswith(".weight")
        ]
        temperatures = [p for n, p in self.model.named_parameters() if n.endswith("log_temperature")]
        others = [
            p for p in self.model.parameters() if all(p is not other for other in matrices + temperatures)
        ]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=recipe.matrix_lr, weight_decay=recipe.weight_decay),
            torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
            torch.optim.AdamW(temperatures, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        scale_of = [k for k, length in enumerate(self.schedule.lengths) for _ in range(length)]
        self.scale_of = torch.tensor(scale_of, device=device)  # (L,)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizers": [o.state_dict() for o in self.optimizers],
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Begin with ``weights``, random or zero where they have none; the optimizers begin anew."""
        self.model.load_state_dict(weights, strict=False)
        for name, parameter in self.model.named_parameters():
            self.average[name].copy_(parameter.detach())

    def positions(self, step: int, stage: Stage) -> Tensor:
        """Which positions of the sequence take part in this update."""
        offsets = self.schedule.offsets
        end = offsets[stage.scales]
        if not stage.kept:
            return torch.arange(end, device=self.device)
        start = offsets[stage.whole]
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        weights = interest(self.schedule, stage.whole)[: end - start]
        chosen = weights.multinomial(stage.kept, generator=generator).sort().values + start
        return torch.cat([torch.arange(start), chosen]).to(self.device)

    def lesson(self, step: int, tokens: Tensor, stage: Stage) -> Lesson:
        """What update ``step`` learns from scenes' ``tokens`` (B, L)."""
        return make_lesson(
            self.quantizer,
            tokens.tensor_split(self.schedule.offsets[1:-1], dim=1),
            stage.scales,
            most=self.recipe.mistakes,
            clean=self.recipe.clean,
            softness=self.recipe.softness,
            generator=torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step),
        )

    def loss(self, lesson: Lesson, text: tuple[Tensor, Tensor, Tensor], positions: Tensor) -> Tensor:
        """Cross-entropy (B, N) of the targets at ``positions`` (N,), all coarser scales given."""
        hidden, lengths, pooled = text
        return self.token_losses(
            self.model,
            lesson.inputs[:, positions[1:] - 1],
            lesson.candidates[:, positions],
            lesson.weights[:, positions],
            (hidden.float(), lengths, pooled),
            self.model.rope[:, positions],
            self.scale_of[positions],
        )

    def step(self, step: int, batch: Batch, stage: Stage) -> dict[str, float]:
        """One update; returns what to log."""
        recipe = self.recipe
        peaks = (recipe.matrix_lr, recipe.peak_lr, recipe.temperature_lr)
        for optimizer, peak in zip(self.optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * recipe.rate(step)
        positions = self.positions(step, stage)
        tokens, *text = (t.to(self.device) for t in batch)
        lesson = self.lesson(step, tokens, stage)
        losses = self.loss(lesson, (text[0], text[1], text[2]), positions)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.mean())
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        decay = min(recipe.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.model.parameters()), 1 - decay)
        values = {"loss": losses.mean().item(), "grad_norm": norm.item()}
        # Of the pictures without mistakes alone, so that runs with and without them compare.
        parts = losses.detach()[lesson.clean].tensor_split([self.schedule.offsets[stage.whole]], dim=1)
        for name, part in zip(("coarse_loss", "fine_loss"), parts, strict=True):
            if part.numel():
                values[name] = part.mean().item()
        return values


def initialize(model: StarTransformer, temperature: float) -> None:
    """Small normal weights; the residual branches start at zero, so that every block starts as the identity."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    for name, parameter in model.named_parameters():
        if name.endswith(("proj.weight", "fc2.weight", "place_projection.weight")):
            nn.init.zeros_(parameter)
        elif name.endswith("log_temperature"):
            nn.init.constant_(parameter, math.log(temperature))


class Painter:
    """Paints the sample sheet with the averaged weights, through the engine that serves users."""

    def __init__(self, data: Path, config: ModelConfig, vqvae: VQVAE, device: torch.device) -> None:
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
        return np.stack([paint(engine, p, seed, scales=scales) for seed, p in enumerate(PROMPTS)])


def train(arguments: argparse.Namespace, recipe: TransformerRecipe, config: ModelConfig) -> None:
    """Train to the end of ``recipe``, continuing what the run directory holds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vqvae = load_tokenizer(arguments.tokenizer, device)
    constants = {k: v for k, v in dataclasses.asdict(recipe).items() if k != "stages"}
    tokens = TokenSet(arguments.tokens)
    settings = {
        "recipe": constants, "config": config.to_dict(), "init": str(arguments.init or ""), "scenes": len(tokens),
    }  # fmt: skip
    run = Run(arguments.run, settings, recipe.steps, recipe.history)
    trainer = Trainer(config, recipe, vqvae, device, compiled=arguments.compile)
    painter = Painter(arguments.data, config, vqvae, device)
    first = 0
    if state := run.resume():
        trainer.load(state)
        first = state["step"]
    elif arguments.init:
        trainer.start_from(trained_weights(arguments.init, "transformer.safetensors", "average"))
    examples = Examples(tokens, recipe)
    begin = 0
    saved = time.monotonic()
    for stage in recipe.stages:
        end = begin + stage.steps
        start = max(first, begin)
        if start < end:
            loader = batches(examples, start=start, stop=end, batch_size=stage.batch_size)
            for step, batch in enumerate(loader, start=start):
                values = trainer.step(step, batch, stage)
                done = step + 1
                if done % 10 == 0:
                    run.record(done, **values)
                if time.monotonic() - saved > 60 * arguments.save_minutes or done == end or run.stopping:
                    run.save(done, **trainer.state())
                    run.draw_curves(["loss", "coarse_loss"])
                    run.write_sheet("samples", painter.paint(trainer.average, stage.scales), columns=4)
                    saved = time.monotonic()
                if run.stopping:
                    raise SystemExit(f"stopped after step {done}; the same command continues")
        begin = end


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Train the transformer; stop and start it as you like.")
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote")
    parser.add_argument(
        "--tokens", type=Path, default=Path("runs/tokens"), help="what training.tokenize wrote"
    )
    parser.add_argument("--tokenizer", type=Path, default=Path("runs/tokenizer"), help="the tokenizer's run")
    parser.add_argument("--run", type=Path, default=Path("runs/transformer"), help="the run's directory")
    parser.add_argument(
        "--init", type=Path, help="a run or a model directory whose averaged weights a new run begins with"
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=shutil.which("g++") is not None and (torch.cuda.is_available() or has_fast_bfloat16()),
        help="compile the network; by default on a GPU and on processors that are fast at bfloat16, where it was "
        "found to save time, if there is a C++ compiler",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    parser.add_argument("--save-minutes", type=float, default=5, help="minutes between two saved states")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    train(arguments, TransformerRecipe(), MODEL)


if __name__ == "__main__":
    main()
