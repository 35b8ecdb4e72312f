"""From logits to tokens: guidance, top-k, top-p, and one random stream for each image; and to their mean instead."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def random_numbers(seed: int, count: int) -> Tensor:
    """The random numbers of one image, ``count`` of them, uniform in [0, 1): (count,) in float32.

    They are drawn on the CPU, all before the image starts: the same on every device, and a step draws none.
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
    """The tokens that may be drawn at each place of a batch of token maps.

    Attributes:
        cumulative: (B, L, K) cumulative probabilities of K tokens, by falling probability if there is a cut.
        last: (B, L, 1) index of the last of those that is a candidate.
        tokens: (B, L, K) which tokens they are; None where they are the whole vocabulary in its order.
    """

    cumulative: Tensor
    last: Tensor
    tokens: Tensor | None

    def draw(self, uniform: Tensor) -> Tensor:
        """One token for each place (B, L), by inverting the cumulative distribution at ``uniform`` (B, L) in [0, 1)."""
        total = self.cumulative.gather(-1, self.last)
        drawn = torch.searchsorted(self.cumulative, uniform.unsqueeze(-1) * total, right=True)
        choice = torch.minimum(drawn, self.last)
        return (choice if self.tokens is None else self.tokens.gather(-1, choice)).squeeze(-1)

    def mean(self, codebook: Tensor) -> Tensor:
        """The mean of their vectors in ``codebook`` (V, z), each by its probability: (B, L, z)."""
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
    """What is left of ``logits`` (B, L, V) after top-k, then top-p.

    Only the ``top_k`` likeliest are ever sorted, and nothing waits for the device.

    Args:
        top_k: as in :class:`star_model.sampling.Sampling`, the same for all.
        top_p: that of each image (B,); None where it is 1 for all.
    """
    vocab = logits.shape[-1]
    tokens = None
    if 0 < top_k < vocab or top_p is not None:
        logits, tokens = logits.topk(min(top_k or vocab, vocab), dim=-1, sorted=True)  # (B, L, K)
    cumulative = logits.float().softmax(-1).cumsum(-1)
    # A candidate stays while those before it have not reached top_p; the likeliest always stays.
    reach = cumulative[..., -1:] if top_p is None else top_p.view(-1, 1, 1)
    last = (cumulative[..., :-1] < reach).sum(-1, keepdim=True)
    return Candidates(cumulative, last, tokens)
