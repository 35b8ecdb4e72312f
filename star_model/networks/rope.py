"""Two-dimensional rotary position embedding: tables of the angles by which queries and keys are turned.

``rope`` (STAR, section 3.3): every scale spans the same square. Positions are divided by the scale's largest and
multiplied by ``rope_norm``, so that the corners of all scales coincide and a model keeps its sense of place when the
resolution changes. Columns turn the first half of the angles, rows the second.

``rope_grid`` (Infinity): positions are multiplied by the ratio of a grid's size to the scale's, and rounded. The grid
is the largest token map that the model was trained with at that shape. Rows turn the first half of the angles.

Scales of the same size have the same angles; the scale embedding tells them apart.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from star_model.config import ModelConfig
from star_model.scales import ScaleSchedule, Size


def rope_table(config: ModelConfig, shape: int = 0) -> Tensor:
    """Cosines and sines of all positions of all scales of ``shape``: (2, L, D / 2) in float32, ``D`` a head's width.

    On the CPU, whatever the device of the network that is being built.
    Half of the angles turn with the column, half with the row, at frequencies ``theta ** (-4 i / D)``.
    """
    t, schedule = config.transformer, config.schedules[shape]
    frequencies = t.rope_theta ** (-_numbers(0, t.head_dim, 4) / t.head_dim)  # (D / 4,)
    if t.positions == "rope":
        return _table(schedule, _relative_positions(schedule, t.rope_norm), frequencies)
    grid = config.rope_grids[shape] if config.rope_grids else schedule.last_size
    return _table(schedule, grid_positions(schedule, grid), frequencies, rows_first=True)


Positions = list[tuple[Tensor, Tensor]]
"""For each scale, the positions of its rows (h,) and of its columns (w,)."""


def _relative_positions(schedule: ScaleSchedule, norm: float) -> Positions:
    def spread(side: int) -> Tensor:
        return _numbers(0, side) / max(side - 1, 1) * norm

    return [(spread(height), spread(width)) for height, width in schedule.sizes]


def grid_positions(schedule: ScaleSchedule, grid: Size) -> Positions:
    """Positions on a grid of ``grid`` rows and columns, rounded to whole numbers, halves to even ones."""

    def rounded(side: int, largest: int) -> Tensor:
        # In whole numbers: many positions lie exactly between two.
        numbers = [round(Fraction(i * largest, side)) for i in range(side)]
        return torch.tensor(numbers, device="cpu").float()

    return [(rounded(height, grid[0]), rounded(width, grid[1])) for height, width in schedule.sizes]


def _numbers(start: int, end: int, step: int = 1) -> Tensor:
    return torch.arange(start, end, step, device="cpu").float()


def _table(
    schedule: ScaleSchedule, positions: Positions, frequencies: Tensor, *, rows_first: bool = False
) -> Tensor:
    angles = []
    for (height, width), (rows, columns) in zip(schedule.sizes, positions, strict=True):
        by_column = torch.outer(columns.repeat(height), frequencies)  # (h w, D / 4)
        by_row = torch.outer(rows.repeat_interleave(width), frequencies)
        halves = (by_row, by_column) if rows_first else (by_column, by_row)
        angles.append(torch.cat(halves, dim=1))
    table = torch.cat(angles)
    return torch.stack([table.cos(), table.sin()])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate adjacent channel pairs of ``x`` (B, L, H, D) by the angles in ``table`` (2, L, D / 2), in float32."""
    cos, sin = table.unsqueeze(2)  # (L, 1, D / 2) each
    pairs = torch.unflatten(x.float(), -1, (-1, 2))
    if torch.compiler.is_compiling():  # real arithmetic, which the compiler fuses into one kernel
        a, b = pairs.unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    turned = torch.view_as_complex(pairs) * torch.complex(cos, sin)  # one kernel in eager mode
    return torch.view_as_real(turned).flatten(-2)
