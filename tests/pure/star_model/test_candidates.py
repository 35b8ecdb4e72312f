from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from star_model.engine import candidates as module
from star_model.engine.candidates import guide, random_numbers


def candidates(logits: Tensor, top_k: int, top_p: float) -> dict[int, float]:
    """What may be drawn from one row of logits and how likely: the definition, with a sort and a loop."""
    ranked = sorted(range(len(logits)), key=lambda i: -logits[i].item())
    if top_k:
        ranked = ranked[:top_k]
    weights = [math.exp(logits[i].item()) for i in ranked]
    total = sum(weights)
    kept: dict[int, float] = {}
    reached = 0.0
    for token, weight in zip(ranked, weights, strict=True):
        kept[token] = weight
        reached += weight / total
        if reached >= top_p and top_p < 1:
            break
    return {token: weight / sum(kept.values()) for token, weight in kept.items()}


def sample(logits: Tensor, uniform: Tensor, *, top_k: int, top_p: Tensor | None) -> Tensor:
    return module.candidates(logits, top_k=top_k, top_p=top_p).draw(uniform)


def draw(
    logits: Tensor, count: int, seed: int = 0, *, top_k: int = 0, top_p: float = 1.0
) -> list[int]:
    """``count`` tokens from one row of logits."""
    uniform = random_numbers(seed, count).unsqueeze(0)
    cut = torch.tensor([top_p]) if top_p < 1 else None
    drawn: list[int] = sample(logits.expand(1, count, -1), uniform, top_k=top_k, top_p=cut)[
        0
    ].tolist()
    return drawn


def row(seed: int, vocab: int, spread: float) -> Tensor:
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * spread


@given(st.integers(0, 1000), st.integers(2, 300), st.floats(0.1, 10))
def test_greedy_is_the_maximum(seed: int, vocab: int, spread: float) -> None:
    logits = row(seed, vocab, spread)
    best = int(logits.argmax())
    assert draw(logits, 20, top_k=1) == [best] * 20
    assert draw(logits, 20, top_k=0, top_p=0.0) == [best] * 20


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.5), (0, 0.9), (5, 0.7), (8, 1.0), (100, 0.99)]
)
def test_cuts_and_frequencies(top_k: int, top_p: float) -> None:
    logits = row(3, 8, 1.5)
    expected = candidates(logits, top_k, top_p)
    count = 20_000
    drawn = Counter(draw(logits, count, top_k=top_k, top_p=top_p))
    assert drawn.keys() == expected.keys()
    chi_square = sum((drawn[t] - count * p) ** 2 / (count * p) for t, p in expected.items())
    degrees = len(expected) - 1
    assert chi_square <= degrees + 5 * math.sqrt(2 * degrees)  # five standard deviations


@given(st.integers(0, 500), st.integers(0, 40), st.floats(0, 1))
def test_only_candidates_are_drawn(seed: int, top_k: int, top_p: float) -> None:
    logits = row(seed, 30, 2.0)
    # On the edge of a cut the last bit of a sum decides: either side is right.
    allowed = candidates(logits, top_k, min(top_p + 1e-6, 1.0)).keys()
    assert set(draw(logits, 200, seed, top_k=top_k, top_p=top_p)) <= allowed


def test_all_of_a_flat_distribution_is_reached() -> None:
    assert set(draw(torch.zeros(16), 2000, top_k=0, top_p=1.0)) == set(range(16))


def test_an_impossible_token_is_never_drawn() -> None:
    logits = torch.zeros(6)
    logits[2] = -math.inf
    assert set(draw(logits, 2000, top_k=0, top_p=1.0)) == {0, 1, 3, 4, 5}


@given(st.integers(0, 200), st.sampled_from([0, 1, 5, 64]), st.floats(0, 0.999))
def test_rows_of_a_batch_do_not_touch_each_other(seed: int, top_k: int, top_p: float) -> None:
    logits = row(seed, 3 * 7 * 64, 2.0).view(3, 7, 64)
    uniform = random_numbers(seed, 21).view(3, 7)
    cuts = torch.tensor([top_p, 0.5, 0.9])
    together = sample(logits, uniform, top_k=top_k, top_p=cuts)
    for i in range(3):
        alone = sample(logits[i : i + 1], uniform[i : i + 1], top_k=top_k, top_p=cuts[i : i + 1])
        assert together[i].tolist() == alone[0].tolist()


@given(st.integers(0, 500), st.integers(1, 12), st.integers(0, 40), st.floats(0, 1))
def test_ties_are_cut_to_the_right_number(seed: int, levels: int, top_k: int, top_p: float) -> None:
    """Among equals it does not matter which are candidates, but how many are."""
    logits = torch.randint(levels, (30,), generator=torch.Generator().manual_seed(seed)).float()
    drawn = set(draw(logits, 400, seed, top_k=top_k, top_p=top_p))
    widest = candidates(logits, top_k, min(top_p + 1e-6, 1.0))
    assert len(drawn) <= len(widest)
    assert min(logits[t].item() for t in drawn) >= min(logits[t].item() for t in widest)


@pytest.mark.parametrize("top_k", [0, 5, 30])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_the_ends_of_the_unit_interval(top_k: int, top_p: float) -> None:
    logits = row(9, 30, 2.0)
    cut = torch.tensor([top_p]) if top_p < 1 else None
    uniform = torch.tensor([[0.0, 1.0 - 2.0**-24]])
    first, last = sample(logits.expand(1, 2, -1), uniform, top_k=top_k, top_p=cut)[0].tolist()
    allowed = candidates(logits, top_k, min(top_p + 1e-6, 1.0))
    assert {first, last} <= allowed.keys()
    assert first != last


@given(st.integers(0, 1000), st.sampled_from([0, 1, 4, 12]), st.floats(0, 1))
def test_the_mean_is_that_of_the_candidates(seed: int, top_k: int, top_p: float) -> None:
    logits = torch.stack([row(seed, 12, 2.0), row(seed + 1, 12, 2.0)])
    codebook = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed))
    cut = torch.tensor([top_p]) if top_p < 1 else None
    means = module.candidates(logits.unsqueeze(0), top_k=top_k, top_p=cut).mean(codebook)[0]
    for mean, one in zip(means, logits, strict=True):
        allowed = [
            candidates(one, top_k, p)
            for p in (top_p, min(top_p + 1e-6, 1.0), max(top_p - 1e-6, 0.0))
        ]
        expected = [sum(p * codebook[token] for token, p in likely.items()) for likely in allowed]
        assert any(torch.allclose(mean, torch.as_tensor(e), atol=1e-4) for e in expected)


def test_random_numbers_are_the_images_own() -> None:
    assert torch.equal(random_numbers(5, 20)[:11], random_numbers(5, 11))
    assert not torch.equal(random_numbers(5, 11), random_numbers(6, 11))
    drawn = random_numbers(1, 100_000)
    assert 0 <= drawn.min() < drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 5e-3


def test_guidance() -> None:
    logits = torch.tensor(
        [[[[1.0, 2.0]], [[0.0, 5.0]]], [[[1.0, 2.0]], [[0.0, 5.0]]]]
    )  # (2, 2, 1, 2)
    assert guide(logits, torch.tensor([0.0, 2.0])).tolist() == [[[1.0, 2.0]], [[3.0, -4.0]]]


def test_close_seeds_start_differently() -> None:
    starts = [random_numbers(seed, 4).tolist() for seed in range(50)]
    assert all(a != b for a, b in pairwise(starts))
