"""Callers that share a simulated server get what the page says."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from server.commands.tenant_simulation import Caller, TenantSimulation
from server.messages import BATCH
from server.worker.scheduler import Policy


class OneByOne:
    """An image takes a second of the worker, in a batch or not, as on a processor."""

    costs = (0.05, 0.15, 0.3, 0.5)

    def step(self, scales: Sequence[int]) -> float:
        return sum(self.costs[scale] for scale in scales)

    def decode(self, batch: int) -> float:
        return 0.0


def simulation(workers: int = 1, slots: int = 8) -> TenantSimulation:
    policy = Policy(OneByOne.costs, max_batch=slots, max_step=0.2)
    return TenantSimulation(OneByOne(), policy, workers=workers, slots=slots)


@pytest.mark.parametrize(("workers", "slots"), [(1, 1), (1, 8), (3, 2)])
def test_callers_with_work_share_evenly_whatever_they_have_queued(workers: int, slots: int) -> None:
    callers = [
        Caller("many", at_once=200),
        Caller("large", images=10, at_once=8),
        Caller("few", at_once=50),
    ]
    shares = simulation(workers, slots).run(callers, seconds=90 / workers)
    images = [share.images for share in shares.values()]
    assert sum(images) >= 90 - slots * workers
    head_start = slots * workers  # of the first, who finds all slots free
    assert max(images) - min(images) <= head_start + 2 * workers


def test_many_images_delay_anothers_by_a_few_at_most() -> None:
    def latencies(other: int) -> list[float]:
        callers = [Caller("many", at_once=other), Caller("one", rate=0.1)]
        return simulation().run(callers, seconds=150)["one"].latencies

    alone, beside = latencies(0), latencies(200)
    assert len(beside) >= len(alone) - 1 > 10  # one may still be on its way at the end
    assert max(beside) <= max(alone) + 3


def test_a_callers_request_is_not_delayed_by_batch_work() -> None:
    callers = [Caller("nightly", images=10, at_once=30, priority=BATCH), Caller("one", rate=0.3)]
    beside = simulation().run(callers, seconds=150)
    alone = simulation().run(callers[1:], seconds=150)
    assert len(beside["one"].latencies) > 20
    longest_step = max(OneByOne.costs)
    assert beside["one"].percentile(50) <= alone["one"].percentile(50) + longest_step
    assert beside["one"].percentile(99) <= alone["one"].percentile(99) + longest_step
    assert beside["nightly"].images + beside["one"].images >= 0.9 * 150, "time was left unused"


def test_nothing_finished_takes_for_ever() -> None:
    shares = simulation().run([Caller("a", at_once=1)], seconds=0.5)
    assert shares["a"].percentile(50) == math.inf
