"""Sampling: guidance, top-k, top-p, then one token drawn by the image's own random stream, or the candidates' mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def random_numbers(seed: int, count: int) -> Tensor:
    """All random numbers of one image, uniform in [0, 1): (count,) in float32.

    They are drawn on the CPU before the image starts, so that they are the same on every device and no step draws any.
    """
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def guide(pairs: Tensor, strength: Tensor) -> Tensor:
    """Classifier-free guidance: pairs (B, 2, L, N) -> (B, L, N) as ``(1 + t) cond - t uncond``, in float32.

    ``strength`` (B,) holds each image's ``t`` at this scale.
    """
    t = strength.view(-1, 1, 1)
    return torch.lerp(pairs[:, 1].float(), pairs[:, 0].float(), 1 + t)


@dataclass(frozen=True)
class Candidates:
    """The tokens that may be drawn at each position of a batch of token maps.

    Attributes:
        cumulative: (B, L, K) cumulative probabilities of K tokens, by falling probability if there is a cut.
        last: (B, L, 1) index of the last of those that is a candidate.
        tokens: (B, L, K) their indices in the codebook; None if they are the whole codebook in its order.
    """

    cumulative: Tensor
    last: Tensor
    tokens: Tensor | None

    def draw(self, uniform: Tensor) -> Tensor:
        """One token a position (B, L), by inverting the cumulative distribution at ``uniform`` (B, L) in [0, 1)."""
        total = self.cumulative.gather(-1, self.last)
        drawn = torch.searchsorted(self.cumulative, uniform.unsqueeze(-1) * total, right=True)
        choice = torch.minimum(drawn, self.last)
        return (choice if self.tokens is None else self.tokens.gather(-1, choice)).squeeze(-1)

    def mean(self, codebook: Tensor) -> Tensor:
        """The mean of their vectors in ``codebook`` (V, z), weighted by probability: (B, L, z)."""
        weights = self.cumulative.diff(
            dim=-1, prepend=torch.zeros_like(self.last, dtype=self.cumulative.dtype)
        )
        ranks = torch.arange(weights.shape[-1], device=weights.device)
        weights = weights.masked_fill(ranks > self.last, 0)
        weights /= weights.sum(-1, keepdim=True)
        if self.tokens is not None:
            everywhere = weights.new_zeros(*weights.shape[:-1], len(codebook))
            weights = everywhere.scatter_(-1, self.tokens, weights)
        return weights @ codebook.to(weights.dtype)


def candidates(logits: Tensor, *, top_k: int, top_p: Tensor | None) -> Candidates:
    """The tokens that remain of ``logits`` (B, L, V) after top-k, then top-p.

    Only the ``top_k`` most likely are sorted, and nothing waits for the device.

    Args:
        logits: (B, L, V).
        top_k: as in :class:`star_model.sampling.Sampling`, the same for all.
        top_p: of each image (B,); None if it is 1 for all.
    """
    vocab = logits.shape[-1]
    tokens = None
    if 0 < top_k < vocab or top_p is not None:
        logits, tokens = logits.topk(min(top_k or vocab, vocab), dim=-1, sorted=True)  # (B, L, K)
    cumulative = logits.float().softmax(-1).cumsum(-1)
    # A token remains as long as those before it have not reached top_p; the most likely always remains.
    reach = cumulative[..., -1:] if top_p is None else top_p.view(-1, 1, 1)
    last = (cumulative[..., :-1] < reach).sum(-1, keepdim=True)
    return Candidates(cumulative, last, tokens)
