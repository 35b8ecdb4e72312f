from __future__ import annotations

import pytest
import torch

from star_model.networks import precision
from star_model.networks.precision import Precision, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize(
    ("device", "fast", "asked", "expected"),
    [
        (CPU, True, None, (BF16, BF16, F32)),
        (CPU, False, None, (F32, F32, F32)),
        (CPU, True, F32, (F32, F32, F32)),
        (CPU, False, BF16, (BF16, BF16, F32)),
        (CUDA, False, None, (BF16, BF16, F16)),
        (CUDA, False, F16, (F16, BF16, F16)),
        (CUDA, True, F32, (F32, F32, F32)),
    ],
)
def test_each_network_has_its_precision(
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    fast: bool,
    asked: torch.dtype | None,
    expected: tuple[torch.dtype, ...],
) -> None:
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: fast)
    assert choose_precision(device, asked) == Precision(*expected)


@pytest.mark.parametrize("fast", [True, False])
def test_what_is_imitated(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: fast)
    assert precision.is_imitated(CPU, BF16) is (not fast)
    assert not precision.is_imitated(CPU, F32)
    assert not precision.is_imitated(CUDA, BF16)


def test_the_processor_is_asked() -> None:
    assert precision.has_fast_bfloat16() in (True, False)
