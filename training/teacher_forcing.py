"""The transformer on whole sequences: all scales at once, each given the coarser ones.

Callers enter :func:`training.precision.autocast` themselves: entered inside a compiled function, it would be a new
object at each call, for which the function is compiled again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from star_model.networks.transformer import StarTransformer


def materialized(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention that stores its weights: with a mask and a few hundred tokens, a CPU's fastest."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    scores = q @ k.mT  # (B, H, L, T)
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        )
    out: Tensor = (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2)
    return out


def token_losses(
    model: StarTransformer,
    inputs: Tensor,
    candidates: Tensor,
    weights: Tensor,
    text: tuple[Tensor, Tensor, Tensor],
    rope: Tensor,
    scale_of: Tensor,
) -> Tensor:
    """Cross-entropy (B, N) of soft targets, all coarser scales given.

    Args:
        candidates: (B, N, K) tokens that are right.
        weights: (B, N, K) how much of the target each is.
        model, inputs, text, rope, scale_of: see :func:`token_logits`.
    """
    logits = token_logits(model, inputs, text, rope, scale_of)
    likelihoods = F.log_softmax(logits.float(), dim=-1).gather(2, candidates)
    return -(weights * likelihoods).sum(dim=2)


def token_logits(
    model: StarTransformer,
    inputs: Tensor,
    text: tuple[Tensor, Tensor, Tensor],
    rope: Tensor,
    scale_of: Tensor,
) -> Tensor:
    """Logits (B, N, V) of tokens of all scales at once, all coarser ones given.

    Args:
        inputs: (B, N - 1, z) what the quantizer feeds to all tokens but the first.
        text: hidden states (B, T, D), their lengths (B,), pooled features (B, D).
        rope: (2, N, 32) of the tokens' positions.
        scale_of: (N,) the scale of each token.
    """
    hidden, lengths, pooled = text
    keys_values = model.text_keys_values(hidden)
    later = model.token_projection(inputs) + model.scale_embedding(scale_of[1:])
    if model.config.place_features:
        later = later + model.place_features(rope[:, 1:])
    x = torch.cat([model.embed_start(pooled), later], dim=1)
    mask = scale_of.unsqueeze(1) >= scale_of.unsqueeze(0)
    logits: Tensor = model(x, rope, TeacherForcing(keys_values, lengths), mask)
    return logits


class TeacherForcing:
    """The key/value context of training: all tokens are in the batch, nothing is stored between steps."""

    def __init__(self, text: Tensor, lengths: Tensor) -> None:
        self._text = text  # (layers, 2, B, T, H, 64)
        self.text_mask = (torch.arange(text.shape[3], device=text.device) < lengths.unsqueeze(1))[
            :, None, None, :
        ]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v

    def text(self, layer: int) -> tuple[Tensor, Tensor]:
        k, v = self._text[layer]
        return k, v
