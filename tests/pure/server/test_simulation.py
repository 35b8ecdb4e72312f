"""The simulation against queues whose answers are known, and against what must hold of any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.commands.simulation import Outcome, Simulation, Strategy
from server.worker.scheduler import Policy

STRATEGIES = get_args(Strategy)


@dataclass(frozen=True)
class Linear:
    """Each step takes ``fixed`` seconds, and ``each`` for every image in it."""

    fixed: float = 0.0
    each: float = 0.25
    decoding: float = 0.0

    def step(self, scales: Sequence[int]) -> float:
        return self.fixed + self.each * len(scales)

    def decode(self, batch: int) -> float:
        return self.decoding * batch


def policy(max_step: float = math.inf) -> Policy:
    return Policy((0.1, 0.2, 0.3, 0.4), max_batch=4, max_step=max_step)


def run(
    strategy: Strategy,
    rate: float,
    times: Linear | None = None,
    requests: int = 400,
    workers: int = 1,
) -> Outcome:
    simulation = Simulation(
        times or Linear(), policy(), strategy=strategy, workers=workers, slots=4
    )
    return simulation.run(rate, requests)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_image_on_an_idle_worker_takes_its_steps_and_its_decoding(strategy: Strategy) -> None:
    outcome = run(strategy, rate=1e-6, times=Linear(0.25, 0.25, 0.5))
    assert outcome.latencies == pytest.approx([2.5] * 400)
    assert outcome.batch == 1.0


def test_one_at_a_time_is_the_textbooks_queue() -> None:
    """Poisson arrivals, a constant service time of 1, load 0.8: a mean time of 1 + 0.8 / (2 * 0.2)."""
    outcome = run("one", rate=0.8, requests=20_000)
    mean = sum(outcome.latencies) / len(outcome.latencies)
    assert mean == pytest.approx(3.0, rel=0.1)
    assert outcome.busy == pytest.approx(0.8, rel=0.02)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_overload_is_worked_off_at_capacity(strategy: Strategy) -> None:
    outcome = run(strategy, rate=1e9)
    assert outcome.busy == pytest.approx(1.0)
    assert outcome.throughput == pytest.approx(1.0), (
        "a second of work for each image, however it is batched"
    )


def test_batches_pay_where_a_step_has_a_price_of_its_own() -> None:
    shared = Linear(fixed=0.25, each=0.0)
    alone, whole, continuous, packed = (run(s, 1e9, shared).throughput for s in STRATEGIES)
    assert alone == pytest.approx(1.0)
    assert whole == pytest.approx(4.0, rel=0.02)
    assert packed == pytest.approx(4.0, rel=0.02)
    assert continuous == pytest.approx(4.0, rel=0.02)


def test_packed_steps_let_nobody_wait_for_a_cohort() -> None:
    times = Linear(fixed=0.25, each=0.0)
    assert run("packed", 2.0, times).percentile(50) < run("whole", 2.0, times).percentile(50)


@given(
    st.sampled_from(STRATEGIES),
    st.floats(0.1, 20),
    st.integers(1, 60),
    st.integers(1, 3),
    st.integers(0, 99),
)
@settings(max_examples=settings().max_examples // 2)
def test_every_request_is_answered_and_none_before_its_work(
    strategy: Strategy, rate: float, requests: int, workers: int, seed: int
) -> None:
    simulation = Simulation(Linear(), policy(), strategy=strategy, workers=workers, slots=3)
    outcome = simulation.run(rate, requests, seed)
    assert len(outcome.latencies) == requests
    assert outcome.latencies[0] >= 1.0 - 1e-9
    assert list(outcome.latencies) == sorted(outcome.latencies)
    assert 0 < outcome.busy <= 1 + 1e-9
    assert 1 <= outcome.batch <= 3
    work = sum(4 * 0.25 for _ in range(requests))
    assert outcome.busy * outcome.seconds * workers == pytest.approx(work)


def test_workers_share_the_load() -> None:
    one, two = (run("continuous", rate=1.5, workers=n) for n in (1, 2))
    assert one.busy == pytest.approx(1.0, abs=0.02)
    assert 0.6 < two.busy < 0.9
    assert two.percentile(99) < one.percentile(50)


def test_the_same_seed_gives_the_same_outcome() -> None:
    assert run("continuous", 0.9) == run("continuous", 0.9)


def test_percentiles() -> None:
    outcome = Outcome(tuple(float(i) for i in range(100)), 10.0, 0.5, 1.0)
    assert (outcome.percentile(50), outcome.percentile(99), outcome.percentile(100)) == (
        50.0,
        99.0,
        99.0,
    )
    assert outcome.throughput == 10.0
