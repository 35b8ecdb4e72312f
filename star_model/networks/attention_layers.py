"""Self-attention and cross-attention of a transformer block, for each way to normalise queries and keys.

Shapes: ``B`` rows, ``L`` tokens of this step, ``C`` the width, ``H`` heads of width ``D``, ``T`` text positions. All
ways leave queries and keys such that the softmax needs no scale.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_model.config import TransformerConfig
from star_model.networks.attention import Attend, KeyValues
from star_model.networks.linear import Linear
from star_model.networks.norms import RmsNorm, layer_norm
from star_model.networks.rope import rotate

MAX_LOG_TEMPERATURE = math.log(100)


class Attention(nn.Module, ABC):
    """Base of all attention layers: the backend and the projection of the result."""

    def __init__(self, config: TransformerConfig, attend: Attend) -> None:
        super().__init__()
        self.attend = attend
        self.head_dim = config.head_dim
        self._add_temperature(config)
        self.proj = Linear(config.width, config.width)

    def _add_temperature(self, config: TransformerConfig) -> None:
        """Create the parameters of the normalisation, if it has any."""


class SelfAttention(Attention):
    """Attention of this step's tokens to those of all scales so far, or of their own alone: see ``context``."""

    def __init__(self, config: TransformerConfig, attend: Attend) -> None:
        super().__init__(config, attend)
        self.qkv = Linear(config.width, 3 * config.width)

    @abstractmethod
    def turn_and_normalize(self, qk: Tensor, rope: Tensor | None) -> Tensor:
        """Heads of queries and keys (B, L, 2 H, D) -> the same, rotated and normalised, in float32."""

    def queries_keys_values(self, x: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, L, C) -> queries and keys, rotated and normalised, and values: (B, L, H, D) each."""
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim))  # (B, L, 3 H, D)
        num_heads = heads.shape[2] // 3
        qk, v = heads.split((2 * num_heads, num_heads), dim=2)
        q, k = self.turn_and_normalize(qk, rope).to(v.dtype).chunk(2, dim=2)
        return q, k, v

    def forward(
        self, x: Tensor, layer: int, rope: Tensor | None, context: KeyValues, mask: Tensor | None
    ) -> Tensor:
        q, k, v = self.queries_keys_values(x, rope)
        k, v = context.extend(layer, k, v)
        out: Tensor = self.proj(self.attend(q, k, v, mask).flatten(2))
        return out


class CrossAttention(Attention):
    """Attention of this step's tokens to the text, whose keys and values are computed once for all steps."""

    def __init__(self, config: TransformerConfig, attend: Attend) -> None:
        super().__init__(config, attend)
        self.text_norm = RmsNorm(config.text_dim) if config.block_norm == "rms_sandwich" else None
        self.q = Linear(config.width, config.width)
        self.kv = Linear(config.cross_attention_width, 2 * config.width)

    @abstractmethod
    def normalize_queries(self, q: Tensor) -> Tensor:
        """Heads (B, L, H, D) -> normalised heads in their type."""

    @abstractmethod
    def normalize_keys(self, k: Tensor) -> Tensor:
        """Heads (B, T, H, D) -> normalised heads in their type."""

    def keys_values(self, hidden: Tensor) -> Tensor:
        """What is attended to (B, T, cross_attention_width) -> (2, B, T, H, D): normalised keys, and values."""
        if self.text_norm is not None:
            hidden = self.text_norm(hidden)
        k, v = self.kv(hidden).unflatten(-1, (2, -1, self.head_dim)).unbind(2)
        return torch.stack([self.normalize_keys(k), v])

    def queries(self, x: Tensor) -> Tensor:
        """Tokens (B, L, C) -> normalised queries (B, L, H, D)."""
        return self.normalize_queries(self.q(x).unflatten(-1, (-1, self.head_dim)))

    def forward(self, x: Tensor, layer: int, context: KeyValues) -> Tensor:
        k, v = context.text(layer)
        pair = len(x) // len(k)  # 2 when the prompt's result serves both rows of a guidance pair
        q = self.queries(x[::pair])
        out: Tensor = self.proj(self.attend(q, k, v, context.text_mask).flatten(2))
        return out if pair == 1 else out.repeat_interleave(pair, dim=0)


class CosineAttention(Attention):
    """Normalisation of each head to length 1, queries to a temperature that the head learns."""

    _frozen_lengths: Tensor | None = None

    def _add_temperature(self, config: TransformerConfig) -> None:
        self.log_temperature = nn.Parameter(torch.full((config.num_heads, 1), math.log(4)))
        self.register_load_state_dict_post_hook(_thaw)  # type: ignore[no-untyped-call]

    def freeze(self) -> None:
        """Cache :meth:`lengths`, which depend on the weights alone; evaluation mode uses the cache."""
        self._frozen_lengths = self.lengths()

    def lengths(self) -> Tensor:
        """Lengths that heads are normalised to, in float32: the temperature for each head of the queries (H, 1)."""
        return self.log_temperature.float().clamp(max=MAX_LOG_TEMPERATURE).exp()

    def normalize(self, x: Tensor) -> Tensor:
        """Give the heads of ``x`` (B, L, heads, D) the lengths of :meth:`lengths`; float32."""
        frozen = None if self.training else self._frozen_lengths
        lengths = self.lengths() if frozen is None else frozen
        x = x.float()
        out: Tensor = x * (
            lengths / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)
        )
        return out


def _thaw(attention: CosineAttention, _: object) -> None:
    """Drop the cache: the weights that it was computed from have just been replaced."""
    attention._frozen_lengths = None


class CosineSelfAttention(CosineAttention, SelfAttention):
    """Self-attention whose heads are normalised one by one; as they are after rotation, which keeps lengths."""

    def lengths(self) -> Tensor:
        """The temperatures for the queries, 1 for the keys: (2 H, 1)."""
        temperature = super().lengths()
        return torch.cat([temperature, torch.ones_like(temperature)])

    def turn_and_normalize(self, qk: Tensor, rope: Tensor | None) -> Tensor:
        return self.normalize(qk if rope is None else rotate(qk, rope))


class CosineCrossAttention(CosineAttention, CrossAttention):
    """Cross-attention whose heads are normalised one by one."""

    def normalize_queries(self, q: Tensor) -> Tensor:
        return self.normalize(q).to(q.dtype)

    def normalize_keys(self, k: Tensor) -> Tensor:
        return F.normalize(k, dim=-1)


def _normalize_width(heads: Tensor) -> Tensor:
    """LayerNorm over all heads (..., H, D) together; float32."""
    return layer_norm(heads.flatten(-2).float()).view(heads.shape)


def _scale_queries(q: Tensor) -> Tensor:
    """Divide queries (..., D) by the root of D, before the product; exact for heads of 64, whose root is 8."""
    scaled: Tensor = q * q.shape[-1] ** -0.5
    return scaled


class LayerNormSelfAttention(SelfAttention):
    """Self-attention whose queries and keys go through a LayerNorm over the full width, before rotation."""

    def turn_and_normalize(self, qk: Tensor, rope: Tensor | None) -> Tensor:
        q, k = (_normalize_width(part) for part in qk.chunk(2, dim=2))
        qk = torch.cat([_scale_queries(q), k], dim=2)
        return qk if rope is None else rotate(qk, rope)


class LayerNormCrossAttention(CrossAttention):
    """Cross-attention whose queries and keys go through a LayerNorm over the full width."""

    def normalize_queries(self, q: Tensor) -> Tensor:
        return _scale_queries(_normalize_width(q)).to(q.dtype)

    def normalize_keys(self, k: Tensor) -> Tensor:
        return _normalize_width(k).to(k.dtype)


class PlainCrossAttention(CrossAttention):
    """Cross-attention whose queries and keys are used as they are."""

    def normalize_queries(self, q: Tensor) -> Tensor:
        return _scale_queries(q.float()).to(q.dtype)

    def normalize_keys(self, k: Tensor) -> Tensor:
        return k


SELF_ATTENTIONS: dict[str, type[SelfAttention]] = {
    "cosine": CosineSelfAttention,
    "layer": LayerNormSelfAttention,
}
"""By ``transformer.qk_norm`` of the configuration."""
_CROSS_ATTENTIONS: dict[str, type[CrossAttention]] = {
    "cosine": CosineCrossAttention,
    "layer": LayerNormCrossAttention,
    "none": PlainCrossAttention,
}


def cross_attention(config: TransformerConfig, attend: Attend) -> CrossAttention:
    """The cross-attention that ``config`` describes."""
    norm = config.qk_norm if config.cross_qk_norm == "qk_norm" else config.cross_qk_norm
    return _CROSS_ATTENTIONS[norm](config, attend)
