"""A random mixture of the codebook instead of a drawn token (Gumbel softmax), as Switti paints its smooth scales.

The noise has a number for each token of the image and each codebook vector: millions, too many to keep. So it is not
drawn one after the other, but computed: number ``n`` of the image with seed ``s`` is a hash of both, the ``n``-th
output of SplitMix64 (Steele, Lea and Flood, 2014) that starts from a hash of ``s``. It is the same on every device, in
every batch and whatever was drawn before, and independent of the numbers that tokens are drawn with.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_MIXING = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_BITS = 23
"""Of a number between 0 and 1: with half a step added, still exact in float32, so that 0 and 1 do not occur."""


def gumbel_noise(seed: int, first: int, count: int, vocab: int, device: torch.device) -> Tensor:
    """Noise of ``count`` tokens of an image from token ``first`` on, Gumbel-distributed: (count, vocab) in float32."""
    start = _hash(torch.tensor([_signed(seed * _GAMMA)]))
    begin, end = first * vocab, (first + count) * vocab
    number = torch.arange(begin + 1, end + 1, device=device)
    hashed = _hash(number.mul_(_signed(_GAMMA)).add_(int(start)))
    uniform = _shifted(hashed, 64 - _BITS).float().add_(0.5).mul_(2.0**-_BITS)
    return uniform.log_().neg_().log_().neg_().view(count, vocab)


def mix(logits: Tensor, noise: Tensor, progress: float) -> Tensor:
    """Weights of all tokens at each position: logits and noise (B, L, V) -> (B, L, V) in float32.

    Args:
        logits: with guidance.
        noise: from :func:`gumbel_noise`.
        progress: of the scale among all, from 0 to 1; finer scales have sharper weights.
    """
    temperature = max(0.27 * (1 - 0.95 * progress), 0.005)
    return ((logits.float() * (1 + progress) + noise) / temperature).softmax(-1)


def _hash(x: Tensor) -> Tensor:
    """The output function of SplitMix64; ``x`` (int64) is overwritten."""
    for shift, factor in _MIXING:
        x.bitwise_xor_(_shifted(x, shift)).mul_(_signed(factor))
    return x.bitwise_xor_(_shifted(x, 31))


def _shifted(x: Tensor, places: int) -> Tensor:
    """``x`` (int64), taken for an unsigned number, shifted to the right."""
    return (x >> places).bitwise_and_((1 << (64 - places)) - 1)


def _signed(x: int) -> int:
    """The int64 with the last 64 bits of ``x``."""
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x
