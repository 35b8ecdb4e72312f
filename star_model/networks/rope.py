"""Normalized 2D rotary position embedding (STAR, section 3.3).

Every scale spans the same square: positions are divided by the scale's largest and multiplied by
``rope_norm``, so that the corners of all scales coincide and a model keeps its sense of place when the
resolution changes. Scales of the same side have the same angles; the scale embedding tells them apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from star_model.config import HEAD_DIM
from star_model.scales import ScaleSchedule


def rope_table(schedule: ScaleSchedule, *, theta: float, norm: float) -> Tensor:
    """Cosines and sines of all positions of all scales: (2, L, 32) in float32.

    The first 16 of the 32 angles turn with the column, the others with the row, at frequencies
    ``theta ** (-4 i / 64)``.
    """
    frequencies = theta ** (-torch.arange(0, HEAD_DIM, 4).float() / HEAD_DIM)  # (16,)
    angles = []
    for side in schedule.patch_nums:
        position = torch.arange(side).float() / max(side - 1, 1) * norm
        column = position.repeat(side)  # (side * side,)
        row = position.repeat_interleave(side)
        angles.append(
            torch.cat([torch.outer(column, frequencies), torch.outer(row, frequencies)], dim=1)
        )
    table = torch.cat(angles)
    return torch.stack([table.cos(), table.sin()])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate adjacent channel pairs of ``x`` (B, L, H, 64) by the angles in ``table`` (2, L, 32), in float32."""
    cos, sin = table.unsqueeze(2)  # (L, 1, 32) each
    pairs = torch.unflatten(x.float(), -1, (-1, 2))
    if torch.compiler.is_compiling():  # real arithmetic, which the compiler fuses into one kernel
        a, b = pairs.unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    turned = torch.view_as_complex(pairs) * torch.complex(cos, sin)  # one kernel in eager mode
    return torch.view_as_real(turned).flatten(-2)
