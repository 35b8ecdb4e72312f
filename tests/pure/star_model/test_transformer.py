from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from star_model.engine.kv_cache import KVCache
from star_model.families.registry import PRESETS
from star_model.model import StarModel
from star_model.networks.attention_layers import CosineSelfAttention, CrossAttention
from star_model.networks.block import StarBlock
from star_model.networks.norms import layer_norm, modulate
from star_model.networks.transformer import StarTransformer
from tests.star_model.tiny import (
    MAX_TOKENS,
    TEXT_DIM,
    build_tiny_model,
    class_conditional,
    tiny_config,
)

CPU = torch.device("cpu")
Rows = Literal["own", "conditional"]


class NoCache:
    """One pass over all scales."""

    def __init__(self, keys_values: Tensor, mask: Tensor) -> None:
        self.keys_values, self.text_mask = keys_values, mask[:, None, None, :]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v

    def text(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.keys_values[layer, 0], self.keys_values[layer, 1]


def block(transformer: StarTransformer, layer: int) -> StarBlock:
    found = transformer.blocks[layer]
    assert isinstance(found, StarBlock)
    return found


def cross_attention(transformer: StarTransformer, layer: int) -> CrossAttention:
    found = block(transformer, layer).cross_attention
    assert found is not None
    return found


def text(rows: int) -> tuple[Tensor, Tensor]:
    hidden = torch.randn(rows, MAX_TOKENS, TEXT_DIM, generator=torch.Generator().manual_seed(4))
    return hidden, torch.arange(MAX_TOKENS).expand(rows, -1) < torch.arange(3, 3 + rows)[:, None]


def model_with(rows: Rows) -> StarModel:
    config = tiny_config()
    return build_tiny_model(
        replace(config, transformer=replace(config.transformer, cross_attention_rows=rows))
    )


@torch.inference_mode()
@pytest.mark.parametrize("rows", ["own", "conditional"])
def test_steps_compute_what_one_pass_computes(rows: Rows) -> None:
    """The cache against a mask: scale by scale, or all at once with each scale seeing itself and the coarser."""
    model = model_with(rows)
    transformer, schedule = model.transformer, model.config.schedule
    hidden, mask = text(model.config.transformer.text_rows)
    keys_values = transformer.text_keys_values(hidden)
    x = torch.randn(2, schedule.num_tokens, 64, generator=torch.Generator().manual_seed(5))
    scale_of = torch.arange(4).repeat_interleave(torch.tensor(schedule.lengths))
    causal = scale_of[:, None] >= scale_of[None, :]
    whole = transformer(x, transformer.rope, NoCache(keys_values, mask), causal)

    cache = KVCache(model.config, slots=1, device=CPU, dtype=torch.float32)
    for row in range(model.config.transformer.text_rows):
        cache.write_text(0, row, keys_values[:, :, row], mask[row])
    for scale, part in enumerate(torch.split(x, list(schedule.lengths), dim=1)):
        logits = transformer(part, transformer.rope_of(scale), cache.view([0], scale))
        expected = whole[:, schedule.offsets[scale] : schedule.offsets[scale + 1]]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_conditional_rows_share_the_prompts_cross_attention() -> None:
    transformer = model_with("conditional").transformer
    attention = cross_attention(transformer, 0)
    hidden, mask = text(2)
    x = torch.randn(4, 9, 64)  # two pairs
    context = NoCache(transformer.text_keys_values(hidden), mask)
    shared = attention(x, 0, context)
    assert torch.equal(shared[0], shared[1])
    assert torch.equal(shared[2], shared[3])
    x[1::2] = 0  # the unconditional rows have no say
    assert torch.equal(attention(x, 0, context), shared)


@torch.inference_mode()
def test_own_rows_attend_to_their_own_text() -> None:
    transformer = model_with("own").transformer
    attention = cross_attention(transformer, 0)
    hidden, mask = text(2)
    x = torch.randn(1, 9, 64).expand(2, -1, -1)
    out = attention(x, 0, NoCache(transformer.text_keys_values(hidden), mask))
    assert not torch.allclose(out[0], out[1])


@torch.inference_mode()
def test_padding_of_the_text_has_no_influence(tiny_model: StarModel) -> None:
    transformer = tiny_model.transformer
    hidden, mask = text(2)
    x = torch.randn(2, 4, 64)
    attention = cross_attention(transformer, 1)
    before = attention(x, 1, NoCache(transformer.text_keys_values(hidden), mask))
    hidden[~mask] = 1e3
    assert torch.equal(attention(x, 1, NoCache(transformer.text_keys_values(hidden), mask)), before)


def test_queries_have_the_learnt_length_and_no_more_than_100() -> None:
    attention = block(build_tiny_model().transformer, 0).self_attention
    assert isinstance(attention, CosineSelfAttention)
    q = torch.randn(2, 3, 1, 64)
    for log_temperature, expected in ((math.log(7), 7.0), (math.log(100), 100.0), (50.0, 100.0)):
        attention.log_temperature.data.fill_(log_temperature)
        q_lengths, k_lengths = attention.normalize(torch.cat([q, q], dim=2)).norm(dim=-1).unbind(2)
        torch.testing.assert_close(q_lengths, torch.full_like(q_lengths, expected))
        torch.testing.assert_close(k_lengths, torch.ones_like(k_lengths))


def test_what_is_frozen_follows_the_weights() -> None:
    transformer = build_tiny_model().transformer
    attention = block(transformer, 0).self_attention
    assert isinstance(attention, CosineSelfAttention)
    q = torch.randn(2, 3, 2, 64)
    free = attention.normalize(q)
    transformer.freeze()
    assert torch.equal(attention.normalize(q), free)
    state = {n: t + 1 if "log_temperature" in n else t for n, t in transformer.state_dict().items()}
    transformer.load_state_dict(state)
    assert not torch.allclose(attention.normalize(q), free)
    transformer.freeze()
    attention.log_temperature.data.zero_()
    assert not torch.equal(attention.normalize(q), attention.train().normalize(q)), (
        "training sees the weights"
    )


def test_layer_norm() -> None:
    x = torch.randn(3, 5, 64) * 7 + 2
    torch.testing.assert_close(
        layer_norm(x), torch.nn.LayerNorm(64, eps=1e-6, elementwise_affine=False)(x)
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("star-512", 1_676_924_296),
        ("star-1024", 1_676_931_976),
    ],
)
def test_the_published_sizes(name: str, parameters: int) -> None:
    with torch.device("meta"):
        transformer = StarTransformer(PRESETS[name])
    assert sum(p.numel() for p in transformer.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("var-d16", "310M"),
        ("var-d20", "600M"),
        ("var-d24", "1.0B"),
        ("var-d30", "2.0B"),
        ("var-d36", "2.3B"),
    ],
)
def test_the_published_sizes_of_var(name: str, published: str) -> None:
    """As the table of its authors has them, cut to as many digits."""
    with torch.device("meta"):
        transformer = StarTransformer(PRESETS[name])
    parameters = sum(p.numel() for p in transformer.parameters())
    cut = f"{parameters // 10**6}M" if published.endswith("M") else f"{parameters // 10**8 / 10}B"
    assert cut == published


Adaptive = Literal["none", "block", "shared"]


@torch.inference_mode()
@pytest.mark.parametrize("adaptive_norm", ["block", "shared"])
def test_steps_compute_what_one_pass_computes_with_classes(adaptive_norm: Adaptive) -> None:
    model = build_tiny_model(tiny_config(**class_conditional(adaptive_norm=adaptive_norm)))
    transformer, schedule = model.transformer, model.config.schedule
    modulation = transformer.modulation(torch.tensor([3, 10]))
    assert modulation.shape == (2, 14, 64)
    x = torch.randn(2, schedule.num_tokens, 64, generator=torch.Generator().manual_seed(5))
    scale_of = torch.arange(4).repeat_interleave(torch.tensor(schedule.lengths))
    nothing = NoCache(torch.empty(0), torch.empty(0, 0))
    whole = transformer(x, None, nothing, scale_of[:, None] >= scale_of[None, :], modulation)

    cache = KVCache(model.config, slots=2, device=CPU, dtype=torch.float32)
    cache.write_modulation(1, modulation)
    for scale, part in enumerate(torch.split(x, list(schedule.lengths), dim=1)):
        view = cache.view([1], scale)
        assert view.modulation is not None
        logits = transformer(part, transformer.rope_of(scale), view, modulation=view.modulation)
        expected = whole[:, schedule.offsets[scale] : schedule.offsets[scale + 1]]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("adaptive_norm", ["none", "block", "shared"])
def test_classes_and_places_have_an_influence(adaptive_norm: Adaptive) -> None:
    transformer = build_tiny_model(
        tiny_config(**class_conditional(adaptive_norm=adaptive_norm))
    ).transformer
    starts = transformer.embed_start(torch.tensor([3, 4]))
    assert starts.shape == (2, 1, 64)
    assert not torch.allclose(starts[0], starts[1])
    tokens = transformer.embed_scale(torch.zeros(1, 4, 8), 1)[0]
    assert len({tuple(token.tolist()) for token in tokens}) == 4, "each has a place of its own"
    assert transformer.rope_of(1) is None
    if adaptive_norm != "none":
        modulation = transformer.modulation(torch.tensor([3, 4]))
        assert not torch.isclose(modulation[0], modulation[1]).all(1).any(), (
            "every vector is the class's"
        )


def test_modulate() -> None:
    x, scale, shift = torch.randn(2, 5, 64), torch.randn(2, 1, 64), torch.randn(2, 1, 64)
    torch.testing.assert_close(
        modulate(x, scale, shift), layer_norm(x) + layer_norm(x) * scale + shift
    )
