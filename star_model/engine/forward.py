"""The network's part of a step: from the tokens of a batch to its guided logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from star_model.engine.candidates import guide
from star_model.engine.kv_cache import KVCache
from star_model.networks.transformer import StarTransformer


class Forward(Protocol):
    """Runs the transformer on a batch at one scale.

    Args:
        scale: that all images of the batch are at.
        x: embedded tokens (2 B, p * p, C), or (B, p * p, C) without guidance.
        slots: B slots of the cache; rows ``2 i`` and ``2 i + 1`` of ``x`` are the guidance pair of ``slots[i]``.
        strength: of guidance (B,); None for none, which leaves out the second row of each pair.

    Returns:
        logits (B, p * p, V), which the next call may overwrite.
    """

    def __call__(
        self, scale: int, x: Tensor, slots: Sequence[int], strength: Tensor | None
    ) -> Tensor: ...


class EagerForward:
    """Kernel by kernel, at any size of batch: what every other way is compared with."""

    def __init__(self, transformer: StarTransformer, cache: KVCache) -> None:
        self.transformer = transformer
        self.cache = cache

    def __call__(
        self, scale: int, x: Tensor, slots: Sequence[int] | Tensor, strength: Tensor | None
    ) -> Tensor:
        """See :class:`Forward`; ``slots`` may be a tensor (B,) on the device."""
        view = self.cache.view(slots, scale, rows=1 if strength is None else 2)
        rope = self.transformer.rope_of(scale)
        features = self.transformer.features(x, rope, view, modulation=view.modulation)
        if strength is not None:
            features = guide(torch.unflatten(features, 0, (-1, 2)), strength).to(x.dtype)
        logits: Tensor = self.transformer.head(features)
        return logits
