"""The next-scale transformer: self-attention over the scales so far, cross-attention to the text in every layer.

Nothing is sampled here, and keys and values are kept by the caller. The only state besides the weights is computed from
them: :meth:`StarTransformer.freeze` caches the length that each attention normalises its heads to, and the crop
condition; loading other weights drops that cache. Shapes: ``B`` rows, ``L`` tokens of this step, ``C`` the width, ``H``
heads, ``d`` the width of a head, ``T`` text positions, ``D`` the width of a pooled text feature, ``z`` latent channels
of a token, ``V`` logits of a token. The parts and their order are those of the STAR paper, section 3, on VAR's
architecture (arXiv 2404.02905, section 3.2).

Other families are the same network, configured differently. VAR is conditioned on a class instead of a text, which
modulates every layer (AdaLN) instead of being attended to, and learns a vector for each position instead of rotating.
Switti is conditioned on a text that is attended to and modulates, and its blocks have other norms, feed-forward layers
and, in one of its variants, tokens that attend to their own scale alone. Infinity refines and pools the text by itself,
and predicts the bits of a token instead of its index. The parts are in :mod:`~star_model.networks.block` and the
modules that it imports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_model.config import ModelConfig
from star_model.networks.attention import Attend, KeyValues, sdpa
from star_model.networks.attention_layers import CosineAttention
from star_model.networks.block import StarBlock
from star_model.networks.crop_condition import CropCondition
from star_model.networks.linear import Linear
from star_model.networks.norms import layer_norm, modulate
from star_model.networks.rope import rope_table
from star_model.networks.text_refiner import TextRefiner
from star_model.scales import ScaleSchedule


class StarTransformer(nn.Module):
    """The network that predicts the token map of a scale from the text, or the class, and all coarser scales."""

    rope: Tensor  # with positions="rope"

    def __init__(self, config: ModelConfig, attend: Attend = sdpa) -> None:
        super().__init__()
        t = config.transformer
        self.config = t
        self._model = config
        self.schedules = config.schedules
        if t.num_classes:
            # The last class is the unconditional one.
            self.class_embedding = nn.Embedding(t.num_classes + 1, t.width)
        elif t.refiner_heads:
            self.text_refiner = TextRefiner(config)
        else:
            self.text_projection = nn.Linear(t.pooled_width, t.width)
        self.start_position = nn.Parameter(torch.zeros(t.width))
        self.token_projection = Linear(config.token_channels, t.width)
        self.scale_embedding = nn.Embedding(t.scale_embeddings or len(self.schedule), t.width)
        if t.positions == "absolute":
            self.position_embedding = nn.Parameter(torch.zeros(self.schedule.num_tokens, t.width))
        else:
            table = rope_table(config).to(self.start_position.device)
            self.register_buffer("rope", table, persistent=False)
            # Those of other shapes are made when they are first asked for.
            self._ropes: dict[int, Tensor] = {}
            if t.place_features:
                self.place_projection = nn.Linear(t.head_dim, t.width, bias=False)
        if t.adaptive_norm == "shared":
            self.shared_modulation = nn.Linear(t.width, 6 * t.width)
        if t.crop_condition:
            self.crop = CropCondition(t.width)
        self.blocks = nn.ModuleList(StarBlock(t, attend) for _ in range(t.depth))
        if t.adaptive_norm != "none":
            self.head_modulation = nn.Linear(t.width, 2 * t.width)
        self.head = Linear(t.width, config.token_logits)

    @property
    def schedule(self) -> ScaleSchedule:
        """The token maps of the first shape."""
        return self.schedules[0]

    def embed_start(self, condition: Tensor) -> Tensor:
        """Pooled text features (B, D), or class numbers (B,) -> the 1x1 start token map (B, 1, C)."""
        start: Tensor = self._embed(condition) + self.start_position
        return start.unsqueeze(1) + self.place(0)

    def _embed(self, condition: Tensor) -> Tensor:
        """Pooled text features (B, D), or class numbers (B,), in the transformer's width: (B, C)."""
        if self.config.refiner_heads:
            return condition  # it was pooled to that width
        embed = self.text_projection if self.config.text_dim else self.class_embedding
        out: Tensor = embed(condition)
        return out

    def embed_scale(self, next_input: Tensor, scale: int) -> Tensor:
        """The quantizer's input for ``scale`` (B, l, z) -> tokens (B, l, C)."""
        out: Tensor = self.token_projection(next_input) + self.place(scale)
        return out

    def place(self, scale: int) -> Tensor:
        """The embedding of the scale and, in some models, the position: (C,) for all tokens, or (l, C)."""
        embedding = self.scale_embedding.weight[scale]
        if self.config.positions == "absolute":
            embedding = embedding + self.position_embedding[self._tokens_of(scale)]
        elif self.config.place_features:
            embedding = embedding + self.place_features(self.rope[:, self._tokens_of(scale)])
        return embedding

    def place_features(self, rope: Tensor) -> Tensor:
        """A linear map of the cosines and sines (2, L, d / 2) of positions: (L, C)."""
        features: Tensor = self.place_projection(
            rope.transpose(0, 1).flatten(1).to(self.start_position.dtype)
        )
        return features

    def text_keys_values(self, hidden: Tensor) -> Tensor:
        """Text hidden states (B, T, text_dim) -> cross-attention keys and values (layers, 2, B, T, H, d)."""
        if self.config.refiner_heads:
            hidden = self.text_refiner(hidden)
        blocks = cast("Iterable[StarBlock]", self.blocks)
        attentions = [
            block.cross_attention for block in blocks
        ]  # a generator would break compiled graphs
        return torch.stack([a.keys_values(hidden) for a in attentions if a is not None])

    def modulation(self, condition: Tensor) -> Tensor:
        """Pooled text features (B, D), or class numbers (B,) -> modulation of the layers (B, 6 * layers + 2, C).

        Computed once for all steps: six vectors for each block, gates, scales and shifts of its two layers, then the
        scale and the shift before the head.
        """
        embedded = self._embed(condition)
        activated = F.silu(embedded)
        blocks = cast("Iterable[StarBlock]", self.blocks)
        if self.config.adaptive_norm == "shared":
            shared = self.shared_modulation(activated).unflatten(1, (6, -1))
            parts = [shared + block.modulation_offset for block in blocks]
        elif self.config.crop_condition:
            crop = self.crop().to(embedded.dtype)
            inputs = (F.silu(embedded + block.crop_scale * crop) for block in blocks)
            parts = [
                block.modulation(x).unflatten(1, (6, -1))
                for block, x in zip(blocks, inputs, strict=True)
            ]
        else:
            parts = [block.modulation(activated).unflatten(1, (6, -1)) for block in blocks]
        return torch.cat([*parts, self.head_modulation(activated).unflatten(1, (2, -1))], dim=1)

    def rope_of(self, scale: int, shape: int = 0) -> Tensor | None:
        """Cosines and sines of the positions of ``scale``: (2, l, d / 2); None without rotation."""
        if self.config.positions == "absolute":
            return None
        return self._rope_table(shape)[:, self._tokens_of(scale, shape)]

    def _rope_table(self, shape: int) -> Tensor:
        if shape == 0:
            return self.rope
        if shape not in self._ropes or self._ropes[shape].device != self.rope.device:
            self._ropes[shape] = rope_table(self._model, shape).to(self.rope.device)
        return self._ropes[shape]

    def _tokens_of(self, scale: int, shape: int = 0) -> slice:
        schedule = self.schedules[shape]
        return slice(schedule.offsets[scale], schedule.offsets[scale + 1])

    def forward(
        self,
        x: Tensor,
        rope: Tensor | None,
        context: KeyValues,
        mask: Tensor | None = None,
        modulation: Tensor | None = None,
    ) -> Tensor:
        """Embedded tokens (B, L, C) at the positions of ``rope`` (2, L, d / 2) -> logits (B, L, V).

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
        if head is not None:
            return modulate(x, *head.unsqueeze(2).unbind(1))
        return layer_norm(x) if self.config.logit_norm else x

    def freeze(self) -> None:
        """Cache what depends on the weights alone; they must not change from now on, unless others are loaded."""
        for module in self.modules():
            if isinstance(module, CosineAttention | CropCondition):
                module.freeze()

    def _split(self, modulation: Tensor | None) -> tuple[Sequence[Tensor | None], Tensor | None]:
        """The vectors (B, 6, C) of each block, and those (B, 2, C) of the head."""
        if modulation is None:
            return [None] * len(self.blocks), None
        *blocks, head = torch.split(modulation, 6, dim=1)
        return blocks, head
