"""Norms of a transformer block: around each layer, before and after it; which ones is a property of the model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6


def layer_norm(x: Tensor) -> Tensor:
    """LayerNorm over channels without affine parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm with a scale and a shift (B, 1, C) that come from the condition (AdaLN)."""
    return layer_norm(x) * (1 + scale) + shift


class RmsNorm(nn.Module):
    """Division by the root of the mean square over channels, in float32, then a learnt weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        # The weight is multiplied in the type of ``x``, after the cast, as in the published code.
        return F.rms_norm(x, x.shape[-1:], eps=EPSILON) * self.weight


class LayerNorms(nn.Module):
    """The norms around a layer of a block: a LayerNorm before it, nothing after it.

    The other classes of :data:`BLOCK_NORMS` have the same methods.
    """

    def __init__(self, width: int) -> None:
        super().__init__()

    def before(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """The stream ``x`` (B, L, C) -> the layer's input, modulated by (B, 1, C) each if given."""
        return layer_norm(x) if scale is None or shift is None else modulate(x, scale, shift)

    def after(self, x: Tensor) -> Tensor:
        """The layer's output (B, L, C), before it is gated and added to the stream."""
        return x


class RmsSandwich(nn.Module):
    """An RMSNorm before a layer and one after it, each with a weight of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = RmsNorm(width)
        self.norm2 = RmsNorm(width)

    def before(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """See :meth:`LayerNorms.before`."""
        x = self.norm1(x)
        return x if scale is None or shift is None else x * (1 + scale) + shift

    def after(self, x: Tensor) -> Tensor:
        """See :meth:`LayerNorms.after`."""
        out: Tensor = self.norm2(x)
        return out


class AffineLayerNorms(LayerNorms):
    """A LayerNorm with a learnt weight and bias before a layer, nothing after it."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def before(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        return x if scale is None or shift is None else x * (1 + scale) + shift


BLOCK_NORMS: dict[str, type[LayerNorms] | type[RmsSandwich]] = {
    "layer": LayerNorms,
    "rms_sandwich": RmsSandwich,
    "affine": AffineLayerNorms,
}
"""By ``transformer.block_norm`` and ``transformer.cross_attention_norm`` of the configuration."""
