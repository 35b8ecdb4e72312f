"""The quantizer of Infinity: each channel of a residual is rounded to one of two values, a bit (binary spherical
quantization, arXiv 2406.07548)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from star_model.config import BitTokenizerConfig
from star_model.networks.quantizer import Quantizer
from star_model.scales import ScaleSchedule


class BitQuantizer(Quantizer):
    """A token is the bits of one position of the latent, or of a square of positions; it has no weights.

    The bits of a position stand for a vector of length 1. Those of a token that covers a square are ordered by channel,
    then by row and column in the square. Maps are resized by bilinear interpolation, but residuals by averaging areas.
    """

    def __init__(self, config: BitTokenizerConfig, *schedules: ScaleSchedule) -> None:
        super().__init__(config, schedules)
        self._length: float = config.latent_channels**-0.5

    @property
    def values(self) -> Tensor:
        return torch.tensor([[-self._length], [self._length]])

    def vectors(self, tokens: Tensor) -> Tensor:
        signs = 2 * tokens - 1
        return (signs * self._length).unsqueeze(-1)

    def nearest_tokens(self, rest: Tensor) -> Tensor:
        bits = F.pixel_unshuffle(rest, self.token_patch) > 0  # (B, s, h, w)
        return bits.flatten(2).transpose(1, 2).flatten(1).long()

    def contribution_of(self, vectors: Tensor, scale: int, shape: int = 0) -> Tensor:
        schedule = self.schedules[shape]
        codes = vectors.view(len(vectors), -1, self.symbols).transpose(1, 2)  # (B, s, l)
        codes = torch.unflatten(codes, 2, schedule.sizes[scale])
        codes = F.pixel_shuffle(codes, self.token_patch)  # (B, z, h, w)
        size = self.latent_size(len(schedule) - 1, shape)
        return codes if codes.shape[-2:] == size else F.interpolate(codes, size, mode="bilinear")

    def next_input(self, f_hat: Tensor, scale: int, shape: int = 0) -> Tensor:
        resized = F.interpolate(f_hat, size=self.latent_size(scale, shape), mode="bilinear")
        return F.pixel_unshuffle(resized, self.token_patch).flatten(2).transpose(1, 2)
