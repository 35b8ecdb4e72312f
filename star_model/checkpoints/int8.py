"""Weights stored in eight bits: a matrix ``X`` as int8, and ``X.scale``, one float32 for each of its rows.

A row is ``scale * integers``, with integers from -127 to 127; the largest absolute value of a row is exact up to
rounding. Rows of convolutions are output channels. Only large matrices with long rows are stored so, which is where
the bytes are: codebook, norms, biases and depthwise kernels stay floats.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from star_model.networks.precision import dtype_of, is_exact

SCALE = ".scale"
"""Ending of the name of a matrix's scales."""
SMALLEST_MATRIX = 2**14
"""In values."""
SHORTEST_ROW = 64
"""In values; a codebook vector is shorter."""
LEVELS = 127


def is_quantizable(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a matrix, or the kernels of a convolution, large enough to be worth it."""
    return (
        tensor.ndim in (2, 4)
        and tensor.numel() >= SMALLEST_MATRIX
        and tensor[0].numel() >= SHORTEST_ROW
    )


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round ``weight`` (rows, ...) to int8 of the same shape; returns it and the scales (rows,) in float32."""
    rows = weight.float().flatten(1)
    scale = rows.abs().amax(1) / LEVELS
    integers = (rows / scale.clamp_min(1e-30).unsqueeze(1)).round_().to(torch.int8)
    return integers.view(weight.shape), scale


def restore_rows(integers: Tensor, scale: Tensor) -> Tensor:
    """Undo :func:`quantize_rows`, up to rounding: float32 (rows, ...)."""
    return integers.float() * scale.float().view(-1, *[1] * (integers.ndim - 1))


def quantize_state(state: Mapping[str, Tensor], rest: torch.dtype) -> dict[str, Tensor]:
    """All tensors of a network as they are stored in eight bits.

    Args:
        state: by name.
        rest: type of what is not quantized.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if is_quantizable(tensor) and not is_exact(name):
            stored[name], stored[name + SCALE] = quantize_rows(tensor)
        else:
            stored[name] = tensor.to(dtype_of(name, rest))
    return stored
