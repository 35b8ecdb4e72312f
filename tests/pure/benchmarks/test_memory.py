"""Memory is what was predicted, on a model whose every part is known."""

from __future__ import annotations

import pytest
import torch

from benchmarks.bench_memory import Allocations, measure
from star_model.checkpoints.hub import resolve_model
from star_model.checkpoints.native import load_model
from star_model.cost import peak_bytes
from star_model.families.registry import PRESETS
from tests.star_model.tiny import build_tiny_model


def test_what_is_allocated_is_counted_once_and_until_it_is_gone() -> None:
    given = torch.zeros(1000)
    with Allocations() as allocations:
        a = given + 1
        b = a.view(10, 100)[2:]  # no memory of its own
        assert allocations.peak == 4000
        del a, b
        given.mul_(2)
        c = torch.cat([given, given[:500]])
    assert len(c) == 1500
    assert allocations.peak == 6000


def test_a_slot_takes_what_is_said() -> None:
    predicted, found = measure(build_tiny_model(), 3, 2)["slot"]
    assert predicted == found


@pytest.mark.parametrize("batch", [1, 4])
def test_the_default_models_peak_is_predicted_within_five_percent(batch: int) -> None:
    predicted, found = measure(
        load_model(resolve_model("star-mini"), device="cpu", dtype="float32"), 4, batch
    )["peak"]
    assert predicted == pytest.approx(found, rel=0.05)


def test_more_slots_more_memory() -> None:
    config = PRESETS["star-512"]
    slot = config.memory_per_slot_bytes(2)
    assert peak_bytes(config, 9, 1) - peak_bytes(config, 8, 1) == slot
    assert peak_bytes(config, 8, 1, bytes_per_value=4) > 1.9 * peak_bytes(config, 8, 1)
