"""How strongly each scale of an image is guided, and which scales need both rows of the guidance pair for it.

Guidance is ``(1 + t) prompt - t negative``, with a strength ``t`` for each scale that follows from ``guidance_scale``:

``rising``    ``t`` rises linearly, from 0 at the first scale to ``guidance_scale`` at the last; 0 turns guidance off.
``constant``  ``t`` is ``guidance_scale - 1`` at every scale; 0 and 1 turn guidance off.
"""

from __future__ import annotations

import struct
from typing import Literal

from star_model.sampling import Sampling

GuidanceKind = Literal["rising", "constant"]
_OFF: dict[GuidanceKind, tuple[float, ...]] = {"rising": (0.0,), "constant": (0.0, 1.0)}


def is_off(guidance_scale: float, kind: GuidanceKind) -> bool:
    """Whether a guidance scale means no guidance at all."""
    return guidance_scale in _OFF[kind]


def has_guidance(sampling: Sampling, kind: GuidanceKind, num_scales: int) -> bool:
    """Whether any scale has a guidance scale that guides, so that a negative prompt can have an effect."""
    return not all(is_off(scale, kind) for scale in sampling.guidance_scales(num_scales))


def strengths(sampling: Sampling, kind: GuidanceKind, num_scales: int) -> tuple[float, ...]:
    """The strength ``t`` of guidance at each scale; 0 where there is none.

    Its factors are rounded to float32 first, in which the images of a seed have always been computed.
    """
    result = []
    for scale, wanted in enumerate(sampling.guidance_scales(num_scales)):
        if scale < sampling.guidance_from or is_off(wanted, kind):
            result.append(0.0)
        elif kind == "rising":
            result.append(_float32(wanted) * _float32(scale / (num_scales - 1)))
        else:
            result.append(wanted - 1)
    return tuple(result)


def guided_scales(
    sampling: Sampling, kind: GuidanceKind, num_scales: int, *, own_scale: bool
) -> tuple[bool, ...]:
    """Whether each scale computes both rows of a guidance pair.

    Args:
        own_scale: a token attends to its own scale alone. Otherwise a scale that is not guided still computes both rows
            if a later one is, which reads the keys and values of both.
    """
    wanted = [not is_off(scale, kind) for scale in sampling.guidance_scales(num_scales)]
    end = max(num_scales - sampling.unguided_scales, 0)
    if own_scale:
        return tuple(sampling.guidance_from <= k < end and wanted[k] for k in range(num_scales))
    return tuple(any(wanted[k:end]) for k in range(num_scales))


def _float32(x: float) -> float:
    (rounded,) = struct.unpack("f", struct.pack("f", x))
    return float(rounded)
