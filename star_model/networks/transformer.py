"""The STAR transformer: self-attention over the scales so far, cross-attention to the text in every layer.

Nothing is sampled here, and keys and values are kept by the caller. The only state besides the weights is computed from
them: :meth:`StarTransformer.freeze` caches the length that each attention normalises its heads to, and loading other
weights drops that cache. Shapes: ``B`` rows, ``L`` tokens of this step, ``C`` the width, ``H`` heads of 64, ``T`` text
positions, ``z`` latent channels, ``V`` codebook vectors. The parts and their order are those of the STAR paper, section
3, on VAR's architecture (arXiv 2404.02905, section 3.2).

VAR is the same network, configured differently: it is conditioned on a class instead of a text, which modulates every
layer (AdaLN) instead of being attended to, and learns a vector for each position instead of rotating.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_model.config import HEAD_DIM, ModelConfig, TransformerConfig
from star_model.networks.attention import Attend, KeyValues, sdpa
from star_model.networks.rope import rope_table, rotate

MAX_LOG_TEMPERATURE = math.log(100)


def layer_norm(x: Tensor) -> Tensor:
    """LayerNorm over channels without affine parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm with a scale and a shift (B, 1, C) that come from the class (AdaLN)."""
    return layer_norm(x) * (1 + scale) + shift


class CosineAttention(nn.Module):
    """Base of both attentions: normalised queries and keys, and a learnt temperature for each head."""

    _frozen_lengths: Tensor | None = None

    def __init__(self, config: TransformerConfig, attend: Attend) -> None:
        super().__init__()
        self.attend = attend
        self.log_temperature = nn.Parameter(torch.full((config.num_heads, 1), math.log(4)))
        self.proj = nn.Linear(config.width, config.width)
        self.register_load_state_dict_post_hook(_thaw)  # type: ignore[no-untyped-call]

    def freeze(self) -> None:
        """Cache :meth:`lengths`, which depend on the weights alone; evaluation mode uses the cache."""
        self._frozen_lengths = self.lengths()

    def lengths(self) -> Tensor:
        """Lengths that heads are normalised to, in float32: the temperature for each head of the queries (H, 1)."""
        return self.log_temperature.float().clamp(max=MAX_LOG_TEMPERATURE).exp()

    def normalize(self, x: Tensor) -> Tensor:
        """Give the heads of ``x`` (B, L, heads, 64) the lengths of :meth:`lengths`; float32."""
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


class SelfAttention(CosineAttention):
    """Attention of this step's tokens to all tokens so far."""

    def __init__(self, config: TransformerConfig, attend: Attend) -> None:
        super().__init__(config, attend)
        self.qkv = nn.Linear(config.width, 3 * config.width)

    def lengths(self) -> Tensor:
        """The temperatures for the queries, 1 for the keys: (2 H, 1)."""
        temperature = super().lengths()
        return torch.cat([temperature, torch.ones_like(temperature)])

    def queries_keys_values(self, x: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, L, C) -> queries and keys, rotated and normalised, and values: (B, L, H, 64) each."""
        heads = self.qkv(x).unflatten(-1, (-1, HEAD_DIM))  # (B, L, 3 H, 64)
        num_heads = heads.shape[2] // 3
        qk, v = heads.split((2 * num_heads, num_heads), dim=2)
        if rope is not None:
            qk = rotate(qk, rope)
        q, k = self.normalize(qk).to(v.dtype).chunk(2, dim=2)
        return q, k, v

    def forward(
        self, x: Tensor, layer: int, rope: Tensor | None, context: KeyValues, mask: Tensor | None
    ) -> Tensor:
        q, k, v = self.queries_keys_values(x, rope)
        k, v = context.extend(layer, k, v)
        out: Tensor = self.proj(self.attend(q, k, v, mask).flatten(2))
        return out


class CrossAttention(CosineAttention):
    """Attention of this step's tokens to the text, whose keys and values are computed once for all steps."""

    def __init__(self, config: TransformerConfig, attend: Attend) -> None:
        super().__init__(config, attend)
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.text_dim, 2 * config.width)

    def keys_values(self, hidden: Tensor) -> Tensor:
        """Text hidden states (B, T, text_dim) -> (2, B, T, H, 64): normalised keys, and values."""
        k, v = self.kv(hidden).unflatten(-1, (2, -1, HEAD_DIM)).unbind(2)
        return torch.stack([F.normalize(k, dim=-1), v])

    def queries(self, x: Tensor) -> Tensor:
        """Tokens (B, L, C) -> normalised queries (B, L, H, 64)."""
        heads = self.q(x).unflatten(-1, (-1, HEAD_DIM))
        return self.normalize(heads).to(heads.dtype)

    def forward(self, x: Tensor, layer: int, context: KeyValues) -> Tensor:
        k, v = context.text(layer)
        pair = len(x) // len(k)  # 2 when the prompt's result serves both rows of a guidance pair
        q = self.queries(x[::pair])
        out: Tensor = self.proj(self.attend(q, k, v, context.text_mask).flatten(2))
        return out if pair == 1 else out.repeat_interleave(pair, dim=0)


class FeedForward(nn.Module):
    """Two linear layers around a GELU: (B, L, C) -> (B, L, C)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        hidden = round(config.width * config.mlp_ratio)
        self.fc1 = nn.Linear(config.width, hidden)
        self.fc2 = nn.Linear(hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class StarBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward; each pre-normalised and added to the stream.

    With AdaLN, self-attention and feed-forward, each modulated and gated by the class.
    """

    def __init__(self, config: TransformerConfig, attend: Attend) -> None:
        super().__init__()
        self.self_attention = SelfAttention(config, attend)
        self.cross_attention = CrossAttention(config, attend) if config.text_dim else None
        self.feed_forward = FeedForward(config)
        if config.adaptive_norm == "block":
            self.modulation = nn.Linear(config.width, 6 * config.width)
        elif config.adaptive_norm == "shared":  # added to the modulation that all blocks share
            self.modulation_offset = nn.Parameter(torch.zeros(6, config.width))

    def forward(
        self,
        x: Tensor,
        layer: int,
        rope: Tensor | None,
        context: KeyValues,
        mask: Tensor | None,
        modulation: Tensor | None = None,
    ) -> Tensor:
        if modulation is None:
            x = x + self.self_attention(layer_norm(x), layer, rope, context, mask)
            if self.cross_attention is not None:
                x = x + self.cross_attention(layer_norm(x), layer, context)
            out: Tensor = x + self.feed_forward(layer_norm(x))
        else:
            # (B, 1, C) each
            gate1, gate2, scale1, scale2, shift1, shift2 = modulation.unsqueeze(2).unbind(1)
            x = x + gate1 * self.self_attention(
                modulate(x, scale1, shift1), layer, rope, context, mask
            )
            out = x + gate2 * self.feed_forward(modulate(x, scale2, shift2))
        return out


class StarTransformer(nn.Module):
    """The network that predicts the token map of a scale from the text, or the class, and all coarser scales."""

    rope: Tensor  # with positions="rope"

    def __init__(self, config: ModelConfig, attend: Attend = sdpa) -> None:
        super().__init__()
        t = config.transformer
        self.config = t
        self.schedule = config.schedule
        if t.text_dim:
            self.text_projection = nn.Linear(t.text_dim, t.width)
        else:
            # The last class is the unconditional one.
            self.class_embedding = nn.Embedding(t.num_classes + 1, t.width)
        self.start_position = nn.Parameter(torch.zeros(t.width))
        self.token_projection = nn.Linear(config.tokenizer.latent_channels, t.width)
        self.scale_embedding = nn.Embedding(len(self.schedule), t.width)
        if t.positions == "rope":
            rope = rope_table(self.schedule, theta=t.rope_theta, norm=t.rope_norm)
            self.register_buffer("rope", rope, persistent=False)
            if t.place_features:
                self.place_projection = nn.Linear(HEAD_DIM, t.width, bias=False)
        else:
            self.position_embedding = nn.Parameter(torch.zeros(self.schedule.num_tokens, t.width))
        if t.adaptive_norm == "shared":
            self.shared_modulation = nn.Linear(t.width, 6 * t.width)
        self.blocks = nn.ModuleList(StarBlock(t, attend) for _ in range(t.depth))
        if t.adaptive_norm != "none":
            self.head_modulation = nn.Linear(t.width, 2 * t.width)
        self.head = nn.Linear(t.width, config.tokenizer.vocab_size)

    def embed_start(self, condition: Tensor) -> Tensor:
        """Pooled text features (B, text_dim), or class numbers (B,) -> the 1x1 start token map (B, 1, C)."""
        embed = self.text_projection if self.config.text_dim else self.class_embedding
        start: Tensor = embed(condition) + self.start_position
        return start.unsqueeze(1) + self.place(0)

    def embed_scale(self, next_input: Tensor, scale: int) -> Tensor:
        """The quantizer's input for ``scale`` (B, p * p, z) -> tokens (B, p * p, C)."""
        out: Tensor = self.token_projection(next_input) + self.place(scale)
        return out

    def place(self, scale: int) -> Tensor:
        """The embedding of the scale and, in some models, the position: (C,) for all tokens, or (p * p, C)."""
        embedding = self.scale_embedding.weight[scale]
        if self.config.positions == "absolute":
            embedding = embedding + self.position_embedding[self._tokens_of(scale)]
        elif self.config.place_features:
            embedding = embedding + self.place_features(self.rope[:, self._tokens_of(scale)])
        return embedding

    def place_features(self, rope: Tensor) -> Tensor:
        """A linear map of the cosines and sines (2, L, 32) of positions: (L, C)."""
        features: Tensor = self.place_projection(
            rope.transpose(0, 1).flatten(1).to(self.start_position.dtype)
        )
        return features

    def text_keys_values(self, hidden: Tensor) -> Tensor:
        """Text hidden states (B, T, text_dim) -> cross-attention keys and values (layers, 2, B, T, H, 64)."""
        blocks = cast("Iterable[StarBlock]", self.blocks)
        attentions = (block.cross_attention for block in blocks)
        return torch.stack([a.keys_values(hidden) for a in attentions if a is not None])

    def modulation(self, classes: Tensor) -> Tensor:
        """Class numbers (B,) -> modulation of the layers (B, 6 * layers + 2, C), computed once for all steps.

        Six vectors for each block, gates, scales and shifts of its two layers, then the scale and the shift
        before the head.
        """
        condition = F.silu(self.class_embedding(classes))
        blocks = cast("Iterable[StarBlock]", self.blocks)
        if self.config.adaptive_norm == "shared":
            shared = self.shared_modulation(condition).unflatten(1, (6, -1))
            parts = [shared + block.modulation_offset for block in blocks]
        else:
            parts = [block.modulation(condition).unflatten(1, (6, -1)) for block in blocks]
        return torch.cat([*parts, self.head_modulation(condition).unflatten(1, (2, -1))], dim=1)

    def rope_of(self, scale: int) -> Tensor | None:
        """Cosines and sines of the positions of ``scale``: (2, p * p, 32); None without rotation."""
        return self.rope[:, self._tokens_of(scale)] if self.config.positions == "rope" else None

    def _tokens_of(self, scale: int) -> slice:
        return slice(self.schedule.offsets[scale], self.schedule.offsets[scale + 1])

    def forward(
        self,
        x: Tensor,
        rope: Tensor | None,
        context: KeyValues,
        mask: Tensor | None = None,
        modulation: Tensor | None = None,
    ) -> Tensor:
        """Embedded tokens (B, L, C) at the positions of ``rope`` (2, L, 32) -> logits (B, L, V).

        See :meth:`features`.
        """
        logits: Tensor = self.head(self.features(x, rope, context, mask, modulation))
        return logits

    def features(
        self,
        x: Tensor,
        rope: Tensor | None,
        context: KeyValues,
        mask: Tensor | None = None,
        modulation: Tensor | None = None,
    ) -> Tensor:
        """All of the network but the head: embedded tokens (B, L, C) -> the head's input (B, L, C).

        The head is linear, so guidance may combine two rows before it as well as after, at half the work.
        ``mask`` (boolean, (L, T)) is for training, where all scales are computed at once; a step needs none,
        since a scale sees all coarser ones and the whole of itself. ``modulation`` is that of
        :meth:`modulation`, for a model that has one.
        """
        blocks, head = self._split(modulation)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, rope, context, mask, blocks[layer])
        return layer_norm(x) if head is None else modulate(x, *head.unsqueeze(2).unbind(1))

    def freeze(self) -> None:
        """Cache what depends on the weights alone; they must not change from now on, unless others are loaded."""
        for module in self.modules():
            if isinstance(module, CosineAttention):
                module.freeze()

    def _split(self, modulation: Tensor | None) -> tuple[Sequence[Tensor | None], Tensor | None]:
        """The vectors (B, 6, C) of each block, and those (B, 2, C) of the head."""
        if modulation is None:
            return [None] * len(self.blocks), None
        *blocks, head = torch.split(modulation, 6, dim=1)
        return blocks, head
