"""How Infinity reads a text: the hidden states are normalised, pooled by attention, and mapped for cross-attention.

Texts are not padded: a prompt of ``n`` tokens is ``n`` rows. A negative prompt is read like a prompt; without one,
guidance leads away from a learnt text, of which as many rows are used as the prompt has.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_model.config import ModelConfig
from star_model.networks.norms import RmsNorm


class AttentionPooling(nn.Module):
    """Attention of one learnt query a head to a text: (T, D) -> (C,).

    Args:
        text_dim: width ``D`` of the text's rows.
        width: of the result, ``C``.
        num_heads: which divide it.
    """

    def __init__(self, text_dim: int, width: int, num_heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(nn.init.normal_(torch.empty(num_heads, width // num_heads)))
        self.kv = nn.Linear(text_dim, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, text: Tensor) -> Tensor:
        k, v = self.kv(text).unflatten(-1, (2, *self.query.shape)).permute(1, 2, 0, 3)  # (H, T, d)
        pooled = F.scaled_dot_product_attention(self.query.unsqueeze(1), k, v)  # (H, 1, d)
        out: Tensor = self.proj(pooled.flatten())
        return out


class TextRefiner(nn.Module):
    """Everything between the text encoder and the transformer's blocks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        t = config.transformer
        self.norm = RmsNorm(t.text_dim)
        self.pooling = AttentionPooling(t.text_dim, t.width, t.refiner_heads)
        self.fc1 = nn.Linear(t.text_dim, t.width)
        self.fc2 = nn.Linear(t.width, t.width)
        self.unconditional = nn.Parameter(torch.zeros(config.text_encoder.max_tokens, t.text_dim))

    def pooled(self, text: Tensor) -> Tensor:
        """Hidden states (T, text_dim) of a text -> the vector (C,) that starts and modulates the image."""
        out: Tensor = self.pooling(self.norm(text))
        return out

    def forward(self, text: Tensor) -> Tensor:
        """Hidden states (B, T, text_dim) -> what cross-attention attends to (B, T, C)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(text)), approximate="tanh"))
        return out
