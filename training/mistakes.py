"""Teacher forcing with mistakes in it, so that the model learns to correct its own; and targets that are soft.

What a model samples is never quite what training showed it, and every later scale is painted on top. If some of the
tokens that the next scales see are wrong in training, and what they have to predict is what is then missing, they
learn to put it right (Infinity, arXiv 2412.04431, section 3.3, does it with bits; this is the same with indices).

Which of the nearest codebook vectors is the very nearest is mostly chance: with the default model's tokenizer, the
second nearest adds a quarter of the first one's squared error, the eighth as much again. So the target of a token may
be a distribution over the nearest, the likelier the smaller its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from star_model.networks.quantizer import MultiScaleQuantizer

NEAREST = 8
"""Half of the mistakes are among so many nearest codebook vectors; the others are another picture's token there."""


@dataclass(frozen=True)
class Lesson:
    """What the transformer sees and what it has to say.

    Attributes:
        inputs: (B, L - 1, z) of every scale but the first, as :meth:`MultiScaleQuantizer.teacher_forcing_input`.
        candidates: (B, L, K) tokens that are right after what came before, the best first; K is 1 if targets are hard.
        weights: (B, L, K) how much of the target each of those is; they sum to 1.
        clean: booleans (B,), whether a picture has no mistakes.
    """

    inputs: Tensor
    candidates: Tensor
    weights: Tensor
    clean: Tensor

    def __getitem__(self, pictures: slice) -> Lesson:
        """The lesson of some of the pictures."""
        return Lesson(**{field.name: getattr(self, field.name)[pictures] for field in fields(self)})


def several_nearest(quantizer: MultiScaleQuantizer, rest: Tensor) -> tuple[Tensor, Tensor]:
    """The codebook vectors nearest to each of ``rest`` (B, z, p, p), nearest first.

    Returns:
        their squared distances and their indices, (B, p * p, NEAREST) each.
    """
    codebook = quantizer.codebook.weight
    vectors = rest.flatten(2).transpose(1, 2)
    # |x - c|^2 without |x|^2, which is the same for every c and added in the end.
    distances = codebook.square().sum(1) - 2 * vectors @ codebook.t()  # (B, p * p, V)
    nearest = distances.topk(NEAREST, dim=2, largest=False)
    return nearest.values + vectors.square().sum(dim=2, keepdim=True), nearest.indices


@torch.no_grad()
def make_lesson(
    quantizer: MultiScaleQuantizer,
    maps: Sequence[Tensor],
    scales: int,
    *,
    most: float,
    clean: float,
    softness: float = 0.0,
    generator: torch.Generator,
) -> Lesson:
    """Put mistakes into pictures and find the tokens that make up for them.

    Args:
        quantizer: its codebook and phi.
        maps: the token map (B, p * p) of every scale; what they add up to is the picture that is meant.
        scales: how many of them are learnt.
        most: largest share of wrong tokens in a picture; each picture has its own, evenly drawn up to this.
        clean: share of the pictures without any.
        softness: a codebook vector whose squared error is larger than the nearest one's by this share of the scale's
            mean error has 1/e of its weight in the target; 0 for targets that are the right tokens alone.
        generator: makes the same lesson of the same seed; on the CPU.
    """
    *_, goal = quantizer.f_hats(maps)  # (B, z, P, P)
    count, device = len(goal), goal.device
    spoiled = (torch.rand(count, generator=generator) >= clean).to(device)
    share = torch.rand(count, generator=generator).to(device) * most * spoiled
    f_hat = torch.zeros_like(goal)
    inputs, candidates, weights = [], [], []
    for scale, size in enumerate(quantizer.schedule.sizes[:scales]):
        if scale:
            inputs.append(quantizer.next_input(f_hat, scale))
        rest = goal - f_hat
        if size != quantizer.schedule.last_size:
            rest = F.interpolate(rest, size=size, mode="area")
        errors, near = several_nearest(quantizer, rest)
        right = torch.where(spoiled.unsqueeze(1), near[:, :, 0], maps[scale])
        if softness:
            candidates.append(near)
            weights.append(torch.softmax(-errors / (softness * errors[:, :, 0].mean()), dim=2))
        else:
            candidates.append(right.unsqueeze(2))
            weights.append(torch.ones_like(candidates[-1], dtype=errors.dtype))
        if scale < scales - 1:
            seen = _with_mistakes(right, near, share, generator)
            f_hat = f_hat + quantizer.contribution(seen, scale)
    return Lesson(torch.cat(inputs, 1), torch.cat(candidates, 1), torch.cat(weights, 1), ~spoiled)


def _with_mistakes(
    right: Tensor, near: Tensor, share: Tensor, generator: torch.Generator
) -> Tensor:
    """Tokens (B, p * p) of which ``share`` (B,) are wrong: half of those another picture's, half a near one.

    ``near`` (B, p * p, NEAREST) holds each position's nearest tokens, the nearest first.
    """
    device = right.device
    elsewhere = right[torch.randperm(len(right), generator=generator).to(device)]
    rank = torch.randint(1, NEAREST, (*right.shape, 1), generator=generator).to(device)
    which, wrong = torch.rand(2, *right.shape, generator=generator).to(device)
    mistakes = torch.where(which < 0.5, elsewhere, near.gather(2, rank)[:, :, 0])
    return torch.where(wrong < share.unsqueeze(1), mistakes, right)
