"""The feed-forward layer of a transformer block: (B, L, C) -> (B, L, C)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from star_model.config import TransformerConfig
from star_model.networks.linear import GeluLinear, Linear


class GeluFeedForward(nn.Module):
    """Two linear layers around a GELU, approximated by tanh."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.fc1 = GeluLinear(config.width, config.hidden_width, approximate="tanh")
        self.fc2 = Linear(config.hidden_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.fc1(x))
        return out


class SwigluFeedForward(nn.Module):
    """A linear layer gated by the SiLU of another, then a third; without biases."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate = Linear(config.width, config.hidden_width, bias=False)
        self.up = Linear(config.width, config.hidden_width, bias=False)
        self.down = Linear(config.hidden_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


FEED_FORWARDS: dict[str, type[GeluFeedForward] | type[SwigluFeedForward]] = {
    "gelu": GeluFeedForward,
    "swiglu": SwigluFeedForward,
}
"""By ``transformer.feed_forward`` of the configuration."""
