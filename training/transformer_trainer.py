"""One update of the transformer after the other: what is learnt when, at which rates, and the weights on their way.

Tokens of a scale depend on coarser scales alone, so training may begin with the first scales only, where an image is
85 tokens instead of 853, and add the fine ones later: what is learnt first is exactly what the whole model needs.
In the last stage a random part of the fine tokens is left out, as queries and as keys (STAR, section 4.1); those near
the border, where seldom anything is but background, more often than others.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from star_model.config import ModelConfig
from star_model.networks.attention import sdpa
from star_model.networks.image_tokenizer import ImageTokenizer
from star_model.networks.quantizer import with_codebook
from star_model.networks.transformer import StarTransformer
from star_model.scales import ScaleSchedule
from training.mistakes import Lesson, make_lesson
from training.muon import Muon
from training.precision import autocast
from training.teacher_forcing import materialized, token_losses

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Tokens (B, L), the captions' hidden states (B, T, D), their lengths (B,), pooled features (B, D)."""

ALTERNATING = 4
"""Scales of the updates that are coarse, where fine ones are learnt now and then: a tenth of the tokens."""

KEPT = 256
"""Of the 768 tokens of the last three scales, how many take part in an update."""

RIM = 1 / 8
"""How far from the border, as a fraction of the side, a token is seldom anything but background."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the training.

    Args:
        scales: how many scales are learnt.
        steps: updates.
        batch_size: images an update.
        kept: of the tokens beyond ``whole`` scales, how many take part in an update; the others are left out. 0, or
            more than there are, is all.
        whole: scales that always take part wholly.
        rates: fraction of the peak learning rates at the stage's first update and at its end, linear between.
        fine_every: only every so many updates learn more than the ``whole`` scales, and those on a quarter of the
            images, which cost about as much. Where the coarse scales are to change, it keeps the others from being
            forgotten.
        share: of the minutes, where the length of the training is given in time.
    """

    scales: int
    steps: int
    batch_size: int
    kept: int = 0
    whole: int = 4
    rates: tuple[float, float] = (1.0, 1.0)
    fine_every: int = 1
    share: float = 1.0

    def of_update(self, step: int) -> Stage:
        """What update ``step`` learns: this, without ``fine_every``."""
        if self.fine_every == 1:
            return self
        if step % self.fine_every:
            return dataclasses.replace(self, scales=self.whole, kept=0, fine_every=1)
        return dataclasses.replace(self, batch_size=max(1, self.batch_size // 4), fine_every=1)

    def rate(self, progress: float) -> float:
        """Fraction of the peak learning rates after a share ``progress``, 0 to 1, of the stage."""
        first, last = self.rates
        return first + (last - first) * progress


@dataclasses.dataclass(frozen=True)
class TransformerRecipe:
    """Hyperparameters of a run.

    The attentions' temperatures start higher than the published 4 and learn ten times faster than other vectors: at
    the common rate they had moved from 4 to 5 after a thousand updates, too soft to look at one place or one word.

    Of the pictures, a share of ``clean`` is seen as it is; in the others up to ``mistakes`` of the tokens are wrong.
    ``softness`` is that of the targets: see :func:`training.mistakes.make_lesson`. With ``minutes`` the stages end by
    the clock, each after its share.
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
        Stage(4, 2800, 64, rates=(1.0, 0.5), share=0.3),
        Stage(7, 5000, 24, kept=KEPT, rates=(0.5, 0.0), share=0.7),
    )
    minutes: float = 0.0

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def rate(self, step: int) -> float:
        """Fraction of the peak learning rates at update ``step``: a linear warm-up, then what the stage says."""
        begin = 0
        for stage in self.stages:
            if step < begin + stage.steps:
                return stage.rate((step - begin) / stage.steps) * self.warm(step)
            begin += stage.steps
        raise IndexError(f"update {step} of {begin}")

    def warm(self, step: int) -> float:
        """Fraction of the rates that the warm-up allows at update ``step``."""
        return min(1.0, (step + 1) / self.warmup)

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
    for side, _ in schedule.sizes[first:]:
        centre = (torch.arange(side) + 0.5) / side
        inner = torch.minimum(centre, 1 - centre) > RIM
        weights.append(torch.where(inner.outer(inner), 1.0, 0.25).flatten() / side)
    return torch.cat(weights)


class Trainer:
    """The transformer on its way: weights, their moving average, and two optimizers.

    Matrices of the blocks are updated by Muon (orthogonalized momentum), the rest by AdamW.
    """

    def __init__(
        self,
        config: ModelConfig,
        recipe: TransformerRecipe,
        vqvae: ImageTokenizer,
        device: torch.device,
        *,
        compiled: bool = False,
    ) -> None:
        self.config, self.recipe, self.device = config, recipe, device
        self.schedule = config.schedule
        self.quantizer = with_codebook(vqvae.quantizer)
        self.token_losses = torch.compile(token_losses, dynamic=False) if compiled else token_losses
        torch.manual_seed(recipe.seed)
        attend = sdpa if device.type == "cuda" else materialized
        self.model = StarTransformer(config, attend).to(device)
        initialize(self.model, recipe.temperature)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        matrices = [
            p
            for n, p in self.model.named_parameters()
            if n.startswith("blocks.") and n.endswith(".weight")
        ]
        temperatures = [
            p for n, p in self.model.named_parameters() if n.endswith("log_temperature")
        ]
        others = [
            p
            for p in self.model.parameters()
            if all(p is not other for other in matrices + temperatures)
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
        start = offsets[stage.whole]
        if not 0 < stage.kept < end - start:
            return torch.arange(end, device=self.device)
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

    def loss(
        self, lesson: Lesson, text: tuple[Tensor, Tensor, Tensor], positions: Tensor
    ) -> Tensor:
        """Cross-entropy (B, N) of the targets at ``positions`` (N,), all coarser scales given."""
        hidden, lengths, pooled = text
        with autocast(self.device):
            return self.token_losses(
                self.model,
                lesson.inputs[:, positions[1:] - 1],
                lesson.candidates[:, positions],
                lesson.weights[:, positions],
                (hidden.float(), lengths, pooled),
                self.model.rope[:, positions],
                self.scale_of[positions],
            )

    def step(self, step: int, batch: Batch, stage: Stage, rate: float) -> dict[str, float]:
        """One update at a fraction ``rate`` of the peak learning rates; returns what to log."""
        recipe = self.recipe
        peaks = (recipe.matrix_lr, recipe.peak_lr, recipe.temperature_lr)
        for optimizer, peak in zip(self.optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
        stage = stage.of_update(step)
        positions = self.positions(step, stage)
        tokens, *text = (t[: stage.batch_size].to(self.device) for t in batch)
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
            torch._foreach_lerp_(
                list(self.average.values()), list(self.model.parameters()), 1 - decay
            )
        values = {"loss": losses.mean().item(), "grad_norm": norm.item()}
        # Of the pictures without mistakes alone, so that runs with and without them compare.
        parts = losses.detach()[lesson.clean].tensor_split(
            [self.schedule.offsets[stage.whole]], dim=1
        )
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
