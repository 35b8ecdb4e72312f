"""The multi-scale residual quantizer: a latent as token maps, and back (VAR, algorithms 1 and 2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_model.config import ImageTokenizerConfig, PatchTokenizerConfig, TokenizerConfig
from star_model.scales import ScaleSchedule, Size


class Quantizer(nn.Module, ABC):
    """Each scale encodes the residual of the coarser ones; kinds differ in what a token is, and how maps are resized.

    A token is ``symbols`` symbols, and a symbol one of the ``V`` rows of :attr:`values`. Shapes below: ``B`` images,
    ``z`` latent channels, (H, W) the size of the latent, ``l`` tokens of a scale, ``s`` symbols of a token, ``c``
    columns of :attr:`values`. ``shape`` is the number of an image's shape, the first if not given.

    Args:
        config: of the image tokenizer.
        schedules: the token maps of each shape.
    """

    def __init__(self, config: ImageTokenizerConfig, schedules: Sequence[ScaleSchedule]) -> None:
        super().__init__()
        self.schedules = tuple(schedules)
        self.symbols = config.symbols
        self.token_patch = config.token_patch

    @property
    def schedule(self) -> ScaleSchedule:
        """The token maps of the first shape."""
        return self.schedules[0]

    @property
    @abstractmethod
    def values(self) -> Tensor:
        """What the symbols stand for: (V, c)."""

    @abstractmethod
    def vectors(self, tokens: Tensor) -> Tensor:
        """The values of ``tokens`` (B, l * s): (B, l * s, c)."""

    @abstractmethod
    def contribution_of(self, vectors: Tensor, scale: int, shape: int = 0) -> Tensor:
        """The contribution of ``vectors`` (B, l * s, c), values or means of some, to the latent at ``scale``:
        (B, z, H, W)."""

    @abstractmethod
    def next_input(self, f_hat: Tensor, scale: int, shape: int = 0) -> Tensor:
        """``f_hat`` (B, z, H, W), resized to the transformer's input for predicting ``scale`` >= 1: (B, l, s * c)."""

    @abstractmethod
    def nearest_tokens(self, rest: Tensor) -> Tensor:
        """The tokens (B, l * s) nearest to a residual that has the size of their scale (B, z, h, w)."""

    def contribution(self, tokens: Tensor, scale: int, shape: int = 0) -> Tensor:
        """The contribution of ``tokens`` (B, l * s) of ``scale`` to the latent: (B, z, H, W)."""
        return self.contribution_of(self.vectors(tokens), scale, shape)

    def shape_of(self, latent: Tensor) -> int:
        """The number of the shape whose latents have the size of ``latent`` (B, z, H, W)."""
        sizes = [self.latent_size(len(s) - 1, shape) for shape, s in enumerate(self.schedules)]
        return sizes.index((latent.shape[-2], latent.shape[-1]))

    def latent_size(self, scale: int, shape: int = 0) -> Size:
        """Height and width of the positions of the latent that the tokens of ``scale`` stand for."""
        height, width = self.schedules[shape].sizes[scale]
        return height * self.token_patch, width * self.token_patch

    def decompose(self, features: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Encode ``features`` (B, z, H, W) from coarse to fine.

        Yields, for each scale, its tokens (B, l * s) and ``f_hat`` (B, z, H, W), the sum of the scales so far.
        Gradients flow from ``f_hat`` into the quantizer's weights, not into ``features``: the trainer adds the
        straight-through estimator itself.
        """
        features = features.detach()
        f_hat = torch.zeros_like(features)
        shape = self.shape_of(features)
        for scale in range(len(self.schedules[shape])):
            rest = features - f_hat.detach()
            size = self.latent_size(scale, shape)
            if size != features.shape[-2:]:
                rest = F.interpolate(rest, size=size, mode="area")
            tokens = self.nearest_tokens(rest)
            f_hat = f_hat + self.contribution(tokens, scale, shape)
            yield tokens, f_hat

    @torch.no_grad()
    def encode(self, features: Tensor) -> list[Tensor]:
        """The token maps of ``features`` (B, z, H, W): for each scale a (B, l * s) tensor of symbols."""
        return [tokens for tokens, _ in self.decompose(features)]

    def f_hats(self, tokens: Sequence[Tensor], shape: int = 0) -> Iterator[Tensor]:
        """The latent (B, z, H, W) after each of the given scales' ``tokens``, accumulated coarse to fine."""
        f_hat: Tensor | None = None
        for scale, scale_tokens in enumerate(tokens):
            addend = self.contribution(scale_tokens, scale, shape)
            f_hat = addend if f_hat is None else f_hat + addend
            yield f_hat

    def teacher_forcing_input(self, tokens: Sequence[Tensor], shape: int = 0) -> Tensor:
        """Inputs of all scales but the first, given the ``tokens`` of all coarser ones: (B, L - 1, s * c)."""
        f_hats = self.f_hats(tokens[:-1], shape)
        inputs = [self.next_input(f_hat, k, shape) for k, f_hat in enumerate(f_hats, start=1)]
        return torch.cat(inputs, dim=1)


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


class MultiScaleQuantizer(Quantizer):
    """One codebook of ``V`` vectors shared by all scales: a token is the index of a vector.

    A map of vectors is enlarged by bicubic interpolation and refined by a convolution, :class:`Phi`; the latent is
    reduced by averaging areas.
    """

    def __init__(
        self, config: TokenizerConfig | PatchTokenizerConfig, *schedules: ScaleSchedule
    ) -> None:
        super().__init__(config, schedules)
        self.codebook = nn.Embedding(config.vocab_size, config.latent_channels)
        self.phi = nn.ModuleList(
            Phi(config.latent_channels, config.phi_ratio, config.padding_mode)
            for _ in range(config.num_phi)
        )

    @property
    def values(self) -> Tensor:
        return self.codebook.weight

    def vectors(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.codebook(tokens)
        return out

    def nearest(self, features: Tensor) -> Tensor:
        """Indices (N,) of the codebook vectors nearest to ``features`` (N, z) in Euclidean distance."""
        codebook = self.codebook.weight
        # |x - c|^2 without |x|^2, which is the same for every c: one matrix product.
        return torch.addmm(codebook.square().sum(1), features, codebook.t(), alpha=-2).argmin(1)

    def nearest_tokens(self, rest: Tensor) -> Tensor:
        return self.nearest(rest.permute(0, 2, 3, 1).flatten(0, 2)).view(len(rest), -1)

    def contribution_of(self, vectors: Tensor, scale: int, shape: int = 0) -> Tensor:
        schedule = self.schedules[shape]
        size, last = schedule.sizes[scale], schedule.last_size
        h = torch.unflatten(vectors.transpose(1, 2), 2, size)  # (B, z, h, w)
        if size != last:
            h = F.interpolate(h, size=last, mode="bicubic")
        refined: Tensor = self.phi[schedule.phi_index(scale, len(self.phi))](h)
        return refined

    def next_input(self, f_hat: Tensor, scale: int, shape: int = 0) -> Tensor:
        size = self.schedules[shape].sizes[scale]
        return F.interpolate(f_hat, size=size, mode="area").flatten(2).transpose(1, 2)


def with_codebook(quantizer: Quantizer) -> MultiScaleQuantizer:
    """``quantizer``, which must have a codebook.

    Raises:
        TypeError: when it is of another kind.
    """
    if not isinstance(quantizer, MultiScaleQuantizer):
        raise TypeError(f"a {type(quantizer).__name__} has no codebook")
    return quantizer
