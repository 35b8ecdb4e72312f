from __future__ import annotations

import math
import sys
from dataclasses import replace
from types import ModuleType
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from star_model.engine.engine import Engine
from star_model.errors import ConfigError
from star_model.networks.attention import additive_bias, choose_backend, sdpa, xformers
from star_model.networks.attention_layers import CosineAttention
from star_model.sampling import Sampling
from tests.star_model.tiny import build_tiny_model, tiny_config

CPU = torch.device("cpu")


def by_definition(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = torch.einsum("blhd,bthd->bhlt", q, k)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.einsum("bhlt,bthd->blhd", scores.softmax(-1), v)


def qkv(b: int = 3, length: int = 5, t: int = 7, heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(b, n, heads, 64, generator=g) for n in (length, t, t))
    return F.normalize(q, dim=-1) * 4, F.normalize(k, dim=-1), v


def test_sdpa_without_a_mask() -> None:
    torch.testing.assert_close(sdpa(*qkv()), by_definition(*qkv()))


@pytest.mark.parametrize("shape", [(3, 1, 1, 7), (5, 7), (3, 2, 5, 7)])
def test_sdpa_with_a_mask(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., 0] = True
    masked = sdpa(*qkv(), mask)
    torch.testing.assert_close(masked, by_definition(*qkv(), mask))
    assert not torch.allclose(masked, sdpa(*qkv()))


def test_what_is_masked_has_no_influence() -> None:
    q, k, v = qkv()
    mask = torch.arange(7) < 4
    before = sdpa(q, k, v, mask.expand(3, 1, 1, 7))
    k[:, 4:], v[:, 4:] = 1e3, -1e3
    assert torch.equal(sdpa(q, k, v, mask.expand(3, 1, 1, 7)), before)


@pytest.mark.parametrize("length", [7, 8, 77])
def test_additive_bias_is_the_mask_and_aligned(length: int) -> None:
    q, k, v = qkv(t=length)
    mask = torch.arange(length).expand(3, 1, 1, length) < torch.tensor([3, 5, length]).view(
        3, 1, 1, 1
    )
    bias = additive_bias(mask, q.dtype)
    assert bias.shape == (3, 1, 1, length)
    assert all(stride % 8 == 0 for stride in bias.stride()[:-1])
    assert bias.stride(-1) == 1
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    biased = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
    torch.testing.assert_close(
        biased, F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    )


def test_the_default_backend() -> None:
    assert choose_backend(CPU) is sdpa
    assert choose_backend(torch.device("cuda")) is sdpa


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="unknown attention backend 'flash'; known are sdpa, xformers"
    ):
        choose_backend(CPU, "flash")


def test_xformers_is_refused_where_it_cannot_run() -> None:
    with pytest.raises(ConfigError, match=r"not installed|needs a CUDA device"):
        choose_backend(CPU, "xformers")


def stand_in(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None = None,
    p: float = 0.0,
    scale: float = 1.0,
) -> Tensor:
    """xformers' ``memory_efficient_attention`` by its own documentation: what it takes, and what it computes.

    Its kernels need a GPU. A bias must have the whole shape, not one that broadcasts; the type of the queries; and
    rows at multiples of 8 values, which are next to each other.
    """
    assert p == 0.0
    assert query.shape[2:] == key.shape[2:] == value.shape[2:]
    assert key.shape == value.shape
    assert all(x.stride(-1) == 1 for x in (query, key, value))
    scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1) * scale
    if attn_bias is not None:
        assert attn_bias.shape == scores.shape
        assert attn_bias.dtype == query.dtype
        assert attn_bias.stride(-1) == 1
        assert all(stride % 8 == 0 for stride in attn_bias.stride()[:-1])
        scores = scores + attn_bias
    return (scores.softmax(-1) @ value.transpose(1, 2)).transpose(1, 2)


@pytest.fixture
def xformers_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
    ops.memory_efficient_attention = stand_in  # type: ignore[attr-defined]
    package.ops = ops  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)


@pytest.mark.usefixtures("xformers_stands_in")
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("length", [7, 8, 77])
def test_xformers_is_called_as_it_wants_to_be(length: int, additive: bool) -> None:
    q, k, v = qkv(length=36, t=length)
    torch.testing.assert_close(xformers(q, k, v), sdpa(q, k, v))
    mask = torch.arange(length).expand(3, 1, 1, length) < torch.tensor([3, 5, length]).view(
        3, 1, 1, 1
    )
    given = additive_bias(mask, q.dtype) if additive else mask
    torch.testing.assert_close(xformers(q, k, v, given), sdpa(q, k, v, mask))


@pytest.mark.usefixtures("xformers_stands_in")
@pytest.mark.parametrize("rows", ["own", "conditional"])
def test_a_whole_cohort_by_xformers(rows: Literal["own", "conditional"]) -> None:
    """Slots in any order, texts of different lengths, all scales."""
    config = tiny_config()
    config = replace(
        config, transformer=replace(config.transformer, cross_attention_rows=rows, num_heads=2)
    )
    found = []
    for attend in (sdpa, xformers):
        model = build_tiny_model(config)
        for module in model.transformer.modules():
            if isinstance(module, CosineAttention):
                module.attend = attend
        engine = Engine(model, slots=4, mode="fast")
        texts = model.text_encoder.encode(["a cat", "x", "a red apple on a table", ""])
        sequences = [engine.prepare(text, Sampling(), seed=i) for i, text in enumerate(texts)]
        engine.release(sequences.pop(1))
        while not sequences[0].done:
            engine.step(sequences)
        found.append([torch.cat(s.tokens).tolist() for s in sequences])
    assert found[0] == found[1]


@pytest.mark.usefixtures("cuda")
def test_xformers_against_sdpa() -> None:
    pytest.importorskip(
        "xformers", reason="the extra xformers is not installed", exc_type=ImportError
    )
    device = torch.device("cuda")
    q, k, v = (x.to(device, torch.bfloat16) for x in qkv(length=36, t=77))
    mask = torch.arange(77, device=device).expand(3, 1, 1, 77) < 9
    for given in (None, mask):
        found = choose_backend(device, "xformers")(q, k, v, given)
        torch.testing.assert_close(found, sdpa(q, k, v, given), atol=2e-2, rtol=2e-2)


def test_packed_sequences_are_those_alone() -> None:
    """The mask with which sequences of different lengths share one call, without the kernels that need a GPU."""
    bias = pytest.importorskip(
        "xformers.ops.fmha.attn_bias",
        reason="the extra xformers is not installed",
        exc_type=ImportError,
    )
    lengths, texts = [1, 4, 9], [3, 7, 5]
    alone = [qkv(1, length, t) for length, t in zip(lengths, texts, strict=True)]
    q, k, v = (torch.cat(parts, dim=1) for parts in zip(*alone, strict=True))
    mask = bias.BlockDiagonalMask.from_seqlens(lengths, texts).materialize((14, 15)) == 0
    packed = torch.split(sdpa(q, k, v, mask), lengths, dim=1)
    for found, part in zip(packed, alone, strict=True):
        torch.testing.assert_close(found, sdpa(*part))
