from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from star_model.networks.rope import rope_table, rotate
from star_model.scales import ScaleSchedule
from tests.star_model.tiny import tiny_config

SCHEDULE = ScaleSchedule((1, 2, 3, 5, 8))


def table(norm: float = 64.0) -> Tensor:
    config = tiny_config(patch_nums=SCHEDULE.patch_nums)
    return rope_table(replace(config, transformer=replace(config.transformer, rope_norm=norm)))


def by_complex_numbers(x: Tensor, norm: float) -> Tensor:
    """The published formula: pairs of channels as complex numbers, columns first, then rows."""
    frequencies = 1.0 / (10000.0 ** (torch.arange(0, 64, 4)[:16].float() / 64))
    turns = []
    for side, _ in SCHEDULE.sizes:
        t = torch.arange(side * side, dtype=torch.float32)
        t_x, t_y = t % side, torch.div(t, side, rounding_mode="floor")
        if side > 1:
            t_x, t_y = t_x / t_x.max() * norm, t_y / t_y.max() * norm
        angles = [torch.outer(p, frequencies) for p in (t_x, t_y)]
        turns.append(torch.cat([torch.polar(torch.ones_like(a), a) for a in angles], dim=-1))
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], 32, 2))
    return torch.view_as_real(pairs * torch.cat(turns)[:, None]).flatten(-2)


@pytest.mark.parametrize("norm", [64.0, 13.0])
def test_the_published_formula(norm: float) -> None:
    x = torch.randn(2, SCHEDULE.num_tokens, 3, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        rotate(x, table(norm)), by_complex_numbers(x, norm), atol=1e-5, rtol=1e-5
    )


def test_the_corners_of_all_scales_coincide() -> None:
    corners = []
    for scale, side in enumerate([h for h, _ in SCHEDULE.sizes[1:]], start=1):
        of_scale = table()[:, SCHEDULE.offsets[scale] : SCHEDULE.offsets[scale + 1]]
        corners.append(of_scale[:, [0, side - 1, side * (side - 1), side * side - 1]])
    for corner in corners[1:]:
        torch.testing.assert_close(corner, corners[0])
    assert torch.equal(table()[:, 0], corners[0][:, 0])  # the 1x1 scale is at the origin
    assert not torch.allclose(corners[0][:, 1], corners[0][:, 2])


def test_shape_and_precision() -> None:
    assert table().shape == (2, 103, 32)
    assert table().dtype == torch.float32


def test_norms_are_kept() -> None:
    x = torch.randn(1, SCHEDULE.num_tokens, 2, 64)
    torch.testing.assert_close(rotate(x, table()).norm(dim=-1), x.norm(dim=-1))


def test_a_product_depends_on_the_distance_alone() -> None:
    """The point of it: shifting both of two tokens leaves their product as it was."""
    q, k = torch.randn(64, dtype=torch.float32), torch.randn(64)
    at = table()[:, SCHEDULE.offsets[4] :]  # 8 x 8

    def product(i: int, j: int) -> Tensor:
        a, b = (rotate(x.view(1, 1, 1, 64), at[:, n : n + 1]) for x, n in ((q, i), (k, j)))
        return (a * b).sum()

    torch.testing.assert_close(product(0, 9), product(18, 27), atol=1e-3, rtol=1e-3)
    assert not torch.isclose(product(0, 9), product(0, 18))


def test_half_precision_turns_by_exact_angles() -> None:
    x = torch.randn(1, SCHEDULE.num_tokens, 1, 64).bfloat16()
    turned = rotate(x, table())
    assert turned.dtype == torch.float32
    assert torch.equal(turned, rotate(x.float(), table()))


def test_what_is_compiled_turns_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, SCHEDULE.num_tokens, 3, 64)
    expected = rotate(x, table())
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(x, table()), expected)
