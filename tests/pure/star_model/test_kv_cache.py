from __future__ import annotations

import pytest
import torch
from torch import Tensor

from star_model.engine.kv_cache import KVCache
from star_model.errors import OutOfSlotsError
from tests.star_model.tiny import MAX_TOKENS, tiny_config

CPU = torch.device("cpu")


def cache(slots: int = 4) -> KVCache:
    return KVCache(tiny_config(), slots=slots, device=CPU, dtype=torch.float32)


def step(length: int, rows: int, value: float) -> tuple[Tensor, Tensor]:
    """Keys of ``value`` plus the row's number, and values of minus that."""
    k = (float(value) + torch.arange(rows).view(-1, 1, 1, 1)).expand(rows, length, 1, 64)
    return k, -k


def test_size_is_what_the_configuration_says() -> None:
    c = cache(slots=3)
    stored = sum(t.numel() * t.element_size() for t in (c.image, c.text))
    assert stored == 3 * tiny_config().memory_per_slot_bytes(4)
    assert (c.total_slots, c.free_slots) == (3, 3)


def test_allocate_and_free() -> None:
    c = cache(slots=3)
    assert [c.allocate() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OutOfSlotsError, match="all 3 slots are in use"):
        c.allocate()
    c.free(1)
    with pytest.raises(ValueError, match="slot 1 is already free"):
        c.free(1)
    assert (c.free_slots, c.allocate(), c.free_slots) == (1, 1, 0)


@pytest.mark.parametrize("slots", [[0], [3], [1, 2], [0, 1, 2, 3], [0, 2], [3, 1], [2, 0, 1]])
def test_a_scale_sees_all_before_it(slots: list[int]) -> None:
    c, rows = cache(), 2 * len(slots)
    lengths = tiny_config().schedule.lengths
    for scale, length in enumerate(lengths):
        view = c.view(slots, scale)
        for layer in (0, 1):
            k, v = view.extend(layer, *step(length, rows, 100 * layer + 10 * scale))
            expected = torch.cat(
                [
                    step(n, rows, 100 * layer + 10 * s)[0]
                    for s, n in enumerate(lengths[: scale + 1])
                ],
                dim=1,
            )
            assert torch.equal(k, expected)
            assert torch.equal(v, -expected)


def test_slots_do_not_touch_each_other() -> None:
    c = cache()
    c.view([1, 3], 0).extend(0, *step(1, 4, 5.0))
    assert (c.image[0, :, [0, 2]] == 0).all()
    assert (c.image[1] == 0).all()
    assert c.image[0, 0, 3, :, 0, 0, 0].tolist() == [7.0, 8.0]


def test_the_last_scale_is_not_stored() -> None:
    c = cache()
    before = c.image.clone()
    k, _ = c.view([0], 3).extend(0, *step(49, 2, 1.0))
    assert k.shape == (2, 30 + 49, 1, 64)
    assert torch.equal(c.image, before)


@pytest.mark.parametrize("slots", [[0, 1], [2, 0]])
def test_text(slots: list[int]) -> None:
    c = cache()
    for slot in range(4):
        keys_values = torch.full((2, 2, MAX_TOKENS, 1, 64), float(slot))
        keys_values[:, 1] += 0.5
        for row in (0, 1):
            c.write_text(slot, row, keys_values, torch.arange(MAX_TOKENS) < slot + 1)
    view = c.view(slots, 0)
    k, v = view.text(1)
    assert k.shape == (2 * len(slots), MAX_TOKENS, 1, 64)
    assert k[:, 0, 0, 0].tolist() == [slot for slot in slots for _ in range(2)]
    assert torch.equal(v, k + 0.5)
    assert view.text_mask.shape == (4, 1, 1, MAX_TOKENS)
    assert (view.text_mask == 0).sum((1, 2, 3)).tolist() == [
        slot + 1 for slot in slots for _ in range(2)
    ]


def test_a_shorter_text_leaves_nothing_of_a_longer_one() -> None:
    c = cache()
    for length in (MAX_TOKENS, 3):
        keys_values = torch.full((2, 2, length, 1, 64), 1.0)
        c.write_text(0, 0, keys_values, torch.ones(length, dtype=torch.bool))
    k, v = c.view([0], 0).text(0)
    assert (k[0, :, 0, 0] == v[0, :, 0, 0]).all()
    assert k[0, :, 0, 0].tolist() == [1.0] * 3 + [0.0] * (MAX_TOKENS - 3)
    assert (c.view([0], 0).text_mask[0] == 0).sum() == 3


def test_adjacent_slots_are_read_where_they_lie() -> None:
    c = cache()
    k, _ = c.view([1, 2], 1).extend(0, *step(4, 4, 1.0))
    assert k.untyped_storage().data_ptr() == c.image.untyped_storage().data_ptr()
