"""A block of the transformer: self-attention, cross-attention and feed-forward, put together from named parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from star_model.config import TransformerConfig
from star_model.networks.attention import Attend, KeyValues
from star_model.networks.attention_layers import SELF_ATTENTIONS, cross_attention
from star_model.networks.feed_forward import FEED_FORWARDS
from star_model.networks.norms import BLOCK_NORMS


class StarBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward: each between its norms, and added to the stream.

    With AdaLN, self-attention and feed-forward are modulated and gated by the condition; cross-attention is not.
    """

    def __init__(self, config: TransformerConfig, attend: Attend) -> None:
        super().__init__()
        norms = BLOCK_NORMS[config.block_norm]
        self.self_attention = SELF_ATTENTIONS[config.qk_norm](config, attend)
        self.cross_attention = cross_attention(config, attend) if config.text_dim else None
        self.feed_forward = FEED_FORWARDS[config.feed_forward](config)
        self.self_attention_norm = norms(config.width)
        affine = config.cross_attention_norm == "affine"
        cross_norms = BLOCK_NORMS["affine"] if affine else norms
        self.cross_attention_norm = cross_norms(config.width) if config.text_dim else None
        self.feed_forward_norm = norms(config.width)
        if config.adaptive_norm == "block":
            self.modulation = nn.Linear(config.width, 6 * config.width)
        elif config.adaptive_norm == "shared":  # added to the modulation that all blocks share
            self.modulation_offset = nn.Parameter(torch.zeros(6, config.width))
        if config.crop_condition:
            self.crop_scale = nn.Parameter(torch.ones(config.width))

    def forward(
        self,
        x: Tensor,
        layer: int,
        rope: Tensor | None,
        context: KeyValues,
        mask: Tensor | None,
        modulation: Tensor | None = None,
    ) -> Tensor:
        """The stream (B, L, C) after this block; ``modulation`` (B, 6, C) is this block's, if it has one."""
        vectors = (None,) * 6 if modulation is None else modulation.unsqueeze(2).unbind(1)
        gate1, gate2, scale1, scale2, shift1, shift2 = vectors  # (B, 1, C) each, or None
        # No result of a layer has a name: it would be alive in the next layer, which needs the most memory.
        norm = self.self_attention_norm
        x = x + _gated(
            norm.after(
                self.self_attention(norm.before(x, scale1, shift1), layer, rope, context, mask)
            ),
            gate1,
        )
        if self.cross_attention is not None and self.cross_attention_norm is not None:
            norm = self.cross_attention_norm
            x = x + norm.after(self.cross_attention(norm.before(x), layer, context))
        norm = self.feed_forward_norm
        return x + _gated(norm.after(self.feed_forward(norm.before(x, scale2, shift2))), gate2)


def _gated(x: Tensor, gate: Tensor | None) -> Tensor:
    return x if gate is None else gate * x
