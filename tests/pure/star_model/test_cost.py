"""Work and memory as counted, against what PyTorch counts when it goes through the networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench_memory import Allocations
from star_model.config import ModelConfig
from star_model.cost import (
    DEVICES,
    Device,
    Work,
    decode_work,
    graphs_bytes,
    step_bytes,
    step_work,
)
from star_model.engine.forward import EagerForward
from star_model.engine.kv_cache import KVCache
from star_model.families.registry import PRESETS
from star_model.networks.tokenizers import build_tokenizer
from star_model.networks.transformer import StarTransformer
from tests.star_model.tiny import WIDE, infinity_like, tiny_config

META = torch.device("meta")


def counted(config: ModelConfig, scale: int, batch: int, guided: bool) -> int:
    """Operations of one step's matrix products and attention."""
    with META:
        forward = EagerForward(
            StarTransformer(config), KVCache(config, slots=batch, device=META, dtype=torch.float32)
        )
        x = torch.zeros(
            (1 + guided) * batch, config.schedule.lengths[scale], config.transformer.width
        )
        strength = torch.zeros(batch) if guided else None
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        forward(scale, x, list(range(batch)), strength)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("rows", ["own", "conditional"])
@pytest.mark.parametrize(
    ("scale", "batch", "guided"), [(0, 1, True), (2, 3, True), (3, 1, False), (3, 2, True)]
)
def test_a_steps_operations(
    rows: Literal["own", "conditional"], scale: int, batch: int, guided: bool
) -> None:
    config = tiny_config()
    config = replace(
        config, transformer=replace(config.transformer, cross_attention_rows=rows, num_heads=3)
    )
    assert step_work(config, scale, batch, guided=guided).flops == counted(
        config, scale, batch, guided
    )


@pytest.mark.parametrize(
    "name", ["star-512", "switti-512", "switti-512-ar", "infinity-2b", "infinity-8b"]
)
def test_a_published_models_operations(name: str) -> None:
    config = PRESETS[name]
    # Blocks are alike, and to build thirty of them takes seconds.
    config = replace(config, transformer=replace(config.transformer, depth=3))
    for scale in (0, 9):
        assert step_work(config, scale).flops == counted(config, scale, 1, True)


@pytest.mark.parametrize(
    "name", ["tiny", "star-512", "star-1024", "infinity-2b", "infinity-8b-512"]
)
def test_the_decoders_operations(name: str) -> None:
    config = PRESETS.get(name) or tiny_config()
    size = config.latent_size()
    with META:
        vqvae = build_tokenizer(config)
        f_hat = torch.zeros(2, config.tokenizer.latent_channels, *size)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        vqvae.decode(f_hat)
    assert decode_work(config, 2).flops == counter.get_total_flops()


def test_a_steps_bytes_are_weights_and_what_it_attends_to() -> None:
    config = tiny_config()
    one, three = (step_work(config, 3, batch).bytes for batch in (1, 3))
    slot = (
        config.memory_per_slot_bytes(2) + 2 * 2 * 2 * 49 * 64 * 2
    )  # and the last scale, which no slot holds
    assert three - one == 2 * slot
    with META:
        transformer = StarTransformer(config)
    matrices = [
        p.numel() for n, p in transformer.named_parameters() if p.ndim == 2 and ".kv" not in n
    ]
    assert one - slot == pytest.approx(2 * sum(matrices), rel=0.05)


def test_the_floor_is_the_longer_time() -> None:
    device = Device(flops=100.0, bandwidth=10.0, memory=1.0)
    assert Work(200.0, 10.0).floor(device) == 2.0
    assert (Work(200.0, 10.0) + Work(0.0, 20.0)).floor(device) == 3.0


def test_larger_batches_and_faster_devices_have_lower_floors() -> None:
    config = PRESETS["star-512"]

    def floor(device: str, batch: int) -> float:
        steps = (step_work(config, k, batch) for k in range(len(config.schedule)))
        return sum(work.floor(DEVICES[device]) for work in (*steps, decode_work(config, batch)))

    assert floor("h200", 8) < 8 * floor("h200", 1)
    assert floor("h200", 1) < floor("a100", 1)


def largest_of_a_step(config: ModelConfig, scale: int, batch: int, dtype: torch.dtype) -> int:
    """Bytes alive in the transformer's part of a step over slots anywhere, at most; attention's kernel takes none."""

    def no_more_than_the_result(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return torch.empty_like(q)

    with META:
        transformer = StarTransformer(config, no_more_than_the_result).eval().to(dtype)
        x = torch.zeros(
            2 * batch, config.schedule.lengths[scale], config.transformer.width, dtype=dtype
        )
    cache = KVCache(config, slots=batch, device=META, dtype=dtype)
    with torch.inference_mode():
        transformer.freeze()
        with Allocations() as allocations:
            slots, strength = (
                torch.zeros(batch, device=META, dtype=torch.long),
                torch.zeros(batch, device=META),
            )
            EagerForward(transformer, cache)(scale, x, slots, strength)
    peak: int = allocations.peak
    return peak


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 2), (torch.float32, 4)])
@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("star-512", 9),
        ("star-512", 8),
        ("star-256", 9),
        ("star-1024", 13),
        ("switti-512", 9),
        ("switti-1024", 13),
        ("switti-1024-ar", 13),
        ("infinity-2b", 12),
        ("infinity-8b", 8),
    ],
)
def test_what_a_step_takes_for_a_moment(
    name: str, scale: int, dtype: torch.dtype, size: int
) -> None:
    config = PRESETS[name]
    config = replace(config, transformer=replace(config.transformer, depth=2))  # the same with any
    assert step_bytes(config, scale, 2, size) == pytest.approx(
        largest_of_a_step(config, scale, 2, dtype), rel=0.05
    )


def test_what_graphs_keep_is_that_of_the_largest() -> None:
    config = tiny_config()
    slot = config.memory_per_slot_bytes(2)
    small = graphs_bytes(config, [8, 8, 1, 1])
    assert small == graphs_bytes(config, [1, 1, 1, 1]) > slot
    assert graphs_bytes(config, [8, 8, 1, 2]) - slot == pytest.approx(2 * (small - slot), rel=1e-3)


def test_what_graphs_keep_has_room_for_every_shape() -> None:
    square = tiny_config(**infinity_like() | {"other_shapes": (), "rope_grids": ((9, 9),)})
    large = tuple((4 * height, 4 * width) for height, width in WIDE[1:])
    both = replace(square, other_shapes=((WIDE[0], *large),), rope_grids=((9, 9), (44, 64)))
    slots = [c.memory_per_slot_bytes(2) for c in (square, both)]
    work = [
        graphs_bytes(c, [1, 1, 1, 1]) - slot for c, slot in zip((square, both), slots, strict=True)
    ]
    assert work[1] > 4 * work[0]
