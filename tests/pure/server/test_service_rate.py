"""The estimate behind ``Retry-After``."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.dispatch.service_rate import ServiceRate, retry_after


def measured(finishes: Sequence[float]) -> ServiceRate:
    rate = ServiceRate(100.0)
    rate.busy(0.0)
    for finish in finishes:
        rate.finished(finish)
    return rate


def test_images_one_by_one_are_counted_at_their_pace() -> None:
    rate = measured([2.0 * i for i in range(1, 201)])
    assert rate.seconds_until(1) == pytest.approx(1.0)  # on average, half of one is done
    assert rate.seconds_until(10) == pytest.approx(19.0)
    assert rate.seconds_until(1000) == pytest.approx(1999.0)


def test_images_in_batches_come_together() -> None:
    rate = measured([4.0 * batch for batch in range(1, 30) for _ in range(8)])
    assert rate.seconds_until(1) == pytest.approx(2.0)
    assert rate.seconds_until(8) == pytest.approx(2.0)
    assert rate.seconds_until(9) == pytest.approx(6.0)


def test_time_without_work_does_not_count() -> None:
    rate = ServiceRate(1.0)
    rate.busy(0.0)
    rate.finished(1.0)
    rate.busy(1000.0)
    rate.finished(1001.0)
    assert rate.seconds_until(11) == pytest.approx(10.5)


def test_before_any_image_the_guess_counts() -> None:
    assert ServiceRate(3.0).seconds_until(2) == pytest.approx(4.5)


@given(
    batch=st.integers(1, 8),
    seconds=st.floats(0.5, 20),
    excess=st.integers(1, 60),
    phase=st.floats(0, 1, exclude_max=True),
    chance=st.randoms(use_true_random=False),
)
def test_a_client_that_comes_back_as_told_finds_room_within_a_factor_of_two(
    batch: int, seconds: float, excess: int, phase: float, chance: random.Random
) -> None:
    """A server that finishes ``batch`` images every ``seconds``; a client is refused at any moment."""
    rate = measured([seconds * (i // batch + 1) for i in range(20 * batch)])
    told = retry_after(rate.seconds_until(excess), chance.random)
    rounds = -(-excess // batch)
    earliest, latest = (rounds - 1) * seconds, rounds * seconds
    true = earliest + (1 - phase) * seconds
    if told < 120:
        assert told <= 2 * latest + 1
        assert told >= min(earliest, true) / 2
        if rounds > 2:  # else nothing but luck says where in a batch the moment falls
            assert true / 2 - 1 <= told <= 2 * true + 1


def test_those_who_are_refused_together_do_not_come_back_together() -> None:
    chance = random.Random(0)
    for seconds, expected in ((0.2, {1, 2}), (20.0, set(range(20, 31)))):
        told = [retry_after(seconds, chance.random) for _ in range(1000)]
        assert set(told) == expected
        assert max(told.count(t) for t in expected) < 900


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 1), (5.0, 5), (1000.0, 120)])
def test_the_wait_is_bounded(seconds: float, expected: int) -> None:
    assert retry_after(seconds, lambda: 0.0) == expected
