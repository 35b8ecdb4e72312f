"""Attention backends, and the choice between them, which is made here only.

Queries and keys arrive L2-normalised, and queries multiplied by the learnt temperature, so the softmax scale is 1.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from star_model.errors import ConfigError


class Attend(Protocol):
    """``softmax(q k^T) v`` for each head.

    Shapes: ``q`` (B, L, H, D), ``k`` and ``v`` (B, T, H, D), ``D`` the width of a head, ``mask`` None or broadcastable
    to (B, H, L, T): boolean, true where a query may attend, or in the type of ``q`` and added to the scores. Returns
    (B, L, H, D).
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor: ...


class KeyValues(Protocol):
    """The keys and values that the queries of a transformer's blocks attend to."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add this step's keys and values (B, L, H, D); return those of all tokens so far (B, T, H, D)."""

    def text(self, layer: int) -> tuple[Tensor, Tensor]:
        """The text's keys and values (B', T, H, D): one row for each row of the batch, or for each pair."""

    @property
    def text_mask(self) -> Tensor:
        """Text positions that are not padding, (B', 1, 1, T), in the form that :class:`Attend` takes."""


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """PyTorch's scaled_dot_product_attention: the default, and the reference for every other backend."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0).transpose(1, 2)


def xformers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The memory-efficient attention of xformers; CUDA only."""
    from xformers import ops

    bias = None
    if mask is not None:
        bias = additive_bias(mask, q.dtype) if mask.dtype == torch.bool else mask
        bias = bias.expand(q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    out: Tensor = ops.memory_efficient_attention(q, k, v, attn_bias=bias, scale=1.0)
    return out


def additive_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean ``mask`` (..., T) as zeros and minus infinities; rows start at multiples of 8 values, which the kernels
    require."""
    length = mask.shape[-1]
    padded = torch.zeros(*mask.shape[:-1], -(-length // 8) * 8, dtype=dtype, device=mask.device)
    return padded[..., :length].masked_fill_(~mask, float("-inf"))


BACKENDS: dict[str, Callable[..., Tensor]] = {"sdpa": sdpa, "xformers": xformers}


def choose_backend(device: torch.device, name: str | None = None) -> Attend:
    """The backend called ``name``, or the default for ``device``.

    Raises:
        ConfigError: for an unknown name, or for xformers where it is not installed or there is no CUDA device.
    """
    name = name or "sdpa"
    if name not in BACKENDS:
        raise ConfigError(
            f"unknown attention backend {name!r}; known are {', '.join(sorted(BACKENDS))}"
        )
    if name == "xformers":
        if importlib.util.find_spec("xformers") is None:
            raise ConfigError(
                "attention backend xformers is not installed; install the extra star-server[xformers]"
            )
        if device.type != "cuda":
            raise ConfigError(
                f"attention backend xformers needs a CUDA device, not {device.type}; use sdpa"
            )
    return BACKENDS[name]
