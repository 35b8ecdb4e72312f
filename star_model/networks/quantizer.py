"""The multi-scale residual quantizer: a latent as token maps, and back (VAR, algorithms 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_model.config import ImageTokenizerConfig
from star_model.scales import ScaleSchedule


class Phi(nn.Module):
    """Refinement of an upsampled map of codebook vectors: ``(1 - ratio) * x + ratio * conv3x3(x)``."""

    def __init__(
        self, channels: int, ratio: float, padding_mode: Literal["zeros", "replicate"]
    ) -> None:
        super().__init__()
        self.ratio = ratio
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, padding_mode=padding_mode)

    def forward(self, x: Tensor) -> Tensor:  # (B, z, h, w) -> (B, z, h, w)
        return torch.lerp(x, self.conv(x), self.ratio)


class MultiScaleQuantizer(nn.Module):
    """One codebook of ``V`` vectors shared by all scales; each scale encodes the residual of the coarser ones.

    Shapes below: ``B`` images, ``z`` latent channels, ``P`` the side of the last token map, ``p`` that of a
    scale.
    """

    def __init__(self, config: ImageTokenizerConfig, schedule: ScaleSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.codebook = nn.Embedding(config.vocab_size, config.latent_channels)
        self.phi = nn.ModuleList(
            Phi(config.latent_channels, config.phi_ratio, config.padding_mode)
            for _ in range(config.num_phi)
        )

    def nearest(self, features: Tensor) -> Tensor:
        """Indices (N,) of the codebook vectors nearest to ``features`` (N, z) in Euclidean distance."""
        codebook = self.codebook.weight
        # |x - c|^2 without |x|^2, which is the same for every c: one matrix product.
        return torch.addmm(codebook.square().sum(1), features, codebook.t(), alpha=-2).argmin(1)

    def contribution(self, tokens: Tensor, scale: int) -> Tensor:
        """The contribution of ``tokens`` (B, p * p) of ``scale`` to the latent: (B, z, P, P)."""
        return self.contribution_of(self.codebook(tokens), scale)

    def contribution_of(self, vectors: Tensor, scale: int) -> Tensor:
        """The contribution of ``vectors`` (B, p * p, z), codebook vectors or means of some, to the latent at ``scale``:
        (B, z, P, P)."""
        side, last = self.schedule.patch_nums[scale], self.schedule.last_side
        h = torch.unflatten(vectors.transpose(1, 2), 2, (side, side))  # (B, z, p, p)
        if side != last:
            h = F.interpolate(h, size=(last, last), mode="bicubic")
        refined: Tensor = self.phi[self.schedule.phi_index(scale, len(self.phi))](h)
        return refined

    def next_input(self, f_hat: Tensor, scale: int) -> Tensor:
        """``f_hat`` (B, z, P, P), resized to the transformer's input for predicting ``scale`` >= 1: (B, p * p, z)."""
        side = self.schedule.patch_nums[scale]
        return F.interpolate(f_hat, size=(side, side), mode="area").flatten(2).transpose(1, 2)

    def decompose(self, features: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Encode ``features`` (B, z, P, P) from coarse to fine.

        Yields, for each scale, its tokens (B, p * p) and ``f_hat`` (B, z, P, P), the sum of the scales so far.
        Gradients flow from ``f_hat`` into the codebook and phi, not into ``features``: the trainer adds the
        straight-through estimator itself.
        """
        features = features.detach()
        f_hat = torch.zeros_like(features)
        for scale, side in enumerate(self.schedule.patch_nums):
            rest = features - f_hat.detach()
            if side != self.schedule.last_side:
                rest = F.interpolate(rest, size=(side, side), mode="area")
            tokens = self.nearest(rest.permute(0, 2, 3, 1).flatten(0, 2)).view(
                len(features), side * side
            )
            f_hat = f_hat + self.contribution(tokens, scale)
            yield tokens, f_hat

    @torch.no_grad()
    def encode(self, features: Tensor) -> list[Tensor]:
        """The token maps of ``features`` (B, z, P, P): for each scale a (B, p * p) tensor of indices."""
        return [tokens for tokens, _ in self.decompose(features)]

    def f_hats(self, tokens: Sequence[Tensor]) -> Iterator[Tensor]:
        """The latent (B, z, P, P) after each of the given scales' ``tokens``, accumulated coarse to fine."""
        f_hat: Tensor | None = None
        for scale, scale_tokens in enumerate(tokens):
            addend = self.contribution(scale_tokens, scale)
            f_hat = addend if f_hat is None else f_hat + addend
            yield f_hat

    def teacher_forcing_input(self, tokens: Sequence[Tensor]) -> Tensor:
        """Inputs of all scales but the first, given the ``tokens`` of all coarser ones: (B, L - 1, z)."""
        f_hats = self.f_hats(tokens[:-1])
        return torch.cat([self.next_input(f_hat, k + 1) for k, f_hat in enumerate(f_hats)], dim=1)
