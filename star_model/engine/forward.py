"""The transformer's part of a step: from the embedded tokens of a batch to its guided logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from star_model.engine.candidates import guide
from star_model.engine.kv_cache import KVCache
from star_model.networks.transformer import StarTransformer


class Forward(Protocol):
    """A function that runs the transformer on a batch at one scale.

    Args:
        scale: scale of all images of the batch.
        x: embedded tokens (2 B, l, C), or (B, l, C) without guidance.
        slots: B slots of the cache; rows ``2 i`` and ``2 i + 1`` of ``x`` are the guidance pair of ``slots[i]``.
        strength: strength of guidance (B,); None without guidance, in which case each pair has only its first row.
        shape: number of the images' shape.

    Returns:
        logits (B, l, V), which the next call may overwrite.
    """

    def __call__(
        self, scale: int, x: Tensor, slots: Sequence[int], strength: Tensor | None, shape: int = 0
    ) -> Tensor: ...


class EagerForward:
    """A :class:`Forward` in eager mode, at any batch size: the reference that graphs are compared with."""

    def __init__(self, transformer: StarTransformer, cache: KVCache) -> None:
        self.transformer = transformer
        self.cache = cache

    def __call__(
        self,
        scale: int,
        x: Tensor,
        slots: Sequence[int] | Tensor,
        strength: Tensor | None,
        shape: int = 0,
    ) -> Tensor:
        """See :class:`Forward`; ``slots`` may be a tensor (B,) on the device."""
        view = self.cache.view(slots, scale, rows=1 if strength is None else 2, shape=shape)
        rope = self.transformer.rope_of(scale, shape)
        features = self.transformer.features(x, rope, view, modulation=view.modulation)
        if strength is not None:
            features = guide(torch.unflatten(features, 0, (-1, 2)), strength).to(x.dtype)
        logits: Tensor = self.transformer.head(features)
        return logits
