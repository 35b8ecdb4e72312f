"""The scheduling policy, with a clock that is an argument."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.worker.scheduler import Key, Policy, Scheduler, token_shares
from tests.server.fakes import PATCH_NUMS

NEVER = math.inf


def scheduler(
    max_batch: int = 8, catch_up: float = 0.15, patience: float = 1.0, max_step: float = math.inf
) -> Scheduler:
    return Scheduler(Policy(token_shares(PATCH_NUMS), max_batch, catch_up, patience, max_step))


def add(s: Scheduler, names: str, images: int = 1) -> None:
    for name in names:
        for image in range(images):
            s.add(Key(name, image), NEVER)


def tick(s: Scheduler) -> tuple[Key, ...]:
    batch = s.next_batch()
    s.advance(batch)
    return batch


def names(batch: tuple[Key, ...]) -> str:
    return "".join(key.job_id for key in batch)


def test_images_that_arrive_together_step_together_from_start_to_end() -> None:
    s = scheduler()
    add(s, "abcd")
    assert [names(tick(s)) for _ in PATCH_NUMS] == ["abcd"] * len(PATCH_NUMS)
    assert s.idle


def test_a_newcomer_catches_up_with_a_cohort_in_the_cheap_scales() -> None:
    s = scheduler()
    add(s, "a")
    for _ in range(4):
        tick(s)
    add(s, "b")
    assert [names(tick(s)) for _ in range(10)] == ["b"] * 4 + ["ab"] * 6
    assert s.idle


def test_a_cohort_in_the_expensive_scales_does_not_wait() -> None:
    s = scheduler()
    add(s, "a")
    for _ in range(8):
        tick(s)
    add(s, "b")
    assert [names(tick(s)) for _ in range(12)] == ["a"] * 2 + ["b"] * 10


def test_without_catching_up_nobody_waits() -> None:
    s = scheduler(catch_up=0.0)
    add(s, "a")
    tick(s)
    add(s, "b")
    assert [names(tick(s)) for _ in range(19)] == ["a"] * 9 + ["b"] * 10


def test_patience_ends() -> None:
    s = scheduler(
        patience=0.3
    )  # two newcomers' worth: catching up over seven scales costs each 14 % of an image
    add(s, "a")
    for _ in range(7):
        tick(s)
    for name in "bc":
        add(s, name)
        assert [names(tick(s)) for _ in range(7)] == [name] * 7
    add(s, "d")
    assert [names(tick(s)) for _ in range(3)] == ["abc"] * 3


def test_of_a_cohort_larger_than_a_batch_those_that_came_first_go_first() -> None:
    s = scheduler(max_batch=2)
    add(s, "abc")
    assert [names(tick(s)) for _ in range(20)] == ["ab"] * 10 + ["c"] * 10


def test_a_full_batch_waits_for_nobody() -> None:
    s = scheduler(max_batch=1)
    add(s, "a")
    tick(s)
    add(s, "b")
    assert names(tick(s)) == "a"


def test_small_scales_are_batched_and_large_ones_taken_in_turn() -> None:
    s = scheduler(max_step=0.2)
    add(s, "abcd")
    batches = [names(tick(s)) for _ in range(20)]
    assert batches[:6] == ["abcd"] * 6
    assert batches[6:11] == [
        "ab",
        "a",
        "a",
        "a",
        "b",
    ]  # the first is done long before the last has begun
    assert sum(len(batch) for batch in batches) == 4 * len(PATCH_NUMS)
    assert s.idle


def finishing_order(s: Scheduler) -> list[Key]:
    order: list[Key] = []
    while not s.idle:
        order += s.advance(s.next_batch())
    return order


def test_where_images_take_turns_one_of_another_job_does_not_wait_for_all_of_a_large_job() -> None:
    s = scheduler(max_step=0.2)
    add(s, "a", images=8)
    first: list[Key] = []
    while not first:
        first = s.advance(s.next_batch())
    add(s, "b")  # in the slot of a's first image
    order = finishing_order(s)
    assert order.index(Key("b", 0)) <= 1
    assert len(order) == 8


def test_no_stream_of_others_holds_back_the_images_of_a_large_job_for_ever() -> None:
    s = scheduler(max_step=0.2)
    add(s, "a", images=4)
    order: list[Key] = []
    for i in range(200):
        s.add(Key(f"other{i}", 0), NEVER)
        done: list[Key] = []
        while not done:
            done = s.advance(s.next_batch())
        order += done
    places = [i for i, key in enumerate(order) if key.job_id == "a"]
    assert len(places) == 4
    assert (
        places[-1] <= 4 * 8 + 3
    )  # eight places given up for each image of the job that was there before


def test_a_step_of_one_image_is_always_allowed() -> None:
    policy = Policy((0.1, 0.9), max_batch=8, max_step=0.5)
    assert [policy.batch_limit(scale) for scale in (0, 1)] == [5, 1]
    assert Policy((0.1, 0.9), max_batch=8).batch_limit(1) == 8


def test_expired_jobs_are_named_once_their_time_has_come_until_they_are_removed() -> None:
    s = scheduler()
    s.add(Key("a", 0), 10.0)
    s.add(Key("a", 1), 10.0)
    s.add(Key("b", 0), 20.0)
    assert s.expired(9.9) == []
    assert s.expired(10.0) == ["a"]
    assert s.remove("a") == [Key("a", 0), Key("a", 1)]
    assert s.expired(30.0) == ["b"]


def test_removing_is_harmless_for_strangers() -> None:
    s = scheduler()
    add(s, "a")
    assert s.remove("b") == []
    assert s.remove("a") == [Key("a", 0)]
    assert s.idle
    assert s.next_batch() == ()


def test_an_image_is_scheduled_once() -> None:
    s = scheduler()
    add(s, "a")
    with pytest.raises(ValueError, match="image 0 of job a is already"):
        add(s, "a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale_costs": ()}, "scale_costs"),
        ({"scale_costs": (0.5, 0.0)}, "scale_costs"),
        ({"max_batch": 0}, "max_batch"),
        ({"catch_up": 1.5}, "catch_up"),
        ({"patience": -1.0}, "patience"),
        ({"max_step": 0.0}, "max_step"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"scale_costs": (0.1, 0.9), "max_batch": 1}
    with pytest.raises(ValueError, match=message):
        Policy(**(values | changes))  # type: ignore[arg-type]


class SchedulerMachine(RuleBasedStateMachine):
    """Random arrivals, departures, clocks and steps, against a plain model of what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = 4
        costs = (0.05, 0.15, 0.3, 0.5)
        self.s = Scheduler(Policy(costs, max_batch=3, catch_up=0.25, patience=0.5, max_step=0.6))
        self.now = 0.0
        self.deadlines: dict[str, float] = {}
        self.scale: dict[Key, int] = {}
        self.done: set[Key] = set()
        self.removed: set[Key] = set()
        self.created = 0

    @rule(images=st.integers(1, 4), seconds=st.floats(0.5, 30))
    def arrive(self, images: int, seconds: float) -> None:
        name = f"job{self.created}"
        self.created += 1
        self.deadlines[name] = self.now + seconds
        for image in range(images):
            self.s.add(Key(name, image), self.now + seconds)
            self.scale[Key(name, image)] = 0

    @rule()
    def step(self) -> None:
        batch = self.s.next_batch()
        assert bool(batch) == bool(self.scale)
        assert len(set(batch)) == len(batch) <= 3, "one image twice in a step"
        assert len({self.scale[key] for key in batch}) <= 1, "a step over several scales"
        finished = self.s.advance(batch)
        for key in batch:
            self.scale[key] += 1
        assert set(finished) == {key for key in batch if self.scale[key] == self.scales}
        for key in finished:
            del self.scale[key]
            assert key not in self.done, "an image was finished twice"
            self.done.add(key)

    @precondition(lambda self: self.scale)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self._remove(data.draw(st.sampled_from(sorted({key.job_id for key in self.scale}))))

    @rule(seconds=st.floats(0.1, 10))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        expired = self.s.expired(self.now)
        here = {key.job_id for key in self.scale}
        assert sorted(expired) == sorted(
            n for n, d in self.deadlines.items() if d <= self.now and n in here
        )
        for name in expired:
            self._remove(name)

    def _remove(self, name: str) -> None:
        here = {key for key in self.scale if key.job_id == name}
        assert set(self.s.remove(name)) == here
        self.removed |= here
        for key in here:
            del self.scale[key]

    @invariant()
    def nothing_is_lost_or_two_things_at_once(self) -> None:
        assert self.s.idle == (not self.scale)
        assert not self.done & self.removed

    def teardown(self) -> None:
        """With nothing new, all that is left finishes within as many steps as there are scales to paint."""
        for _ in range(len(self.scale) * self.scales):
            self.step()
        assert self.s.idle


TestSchedulerMachine = SchedulerMachine.TestCase


@given(arrivals=st.lists(st.integers(0, 3), min_size=1, max_size=40), patience=st.floats(0, 3))
def test_a_stream_of_newcomers_holds_an_image_back_no_longer_than_its_patience(
    arrivals: list[int], patience: float
) -> None:
    s = scheduler(max_batch=4, patience=patience)
    first = Key("first", 0)
    s.add(first, NEVER)
    scale: Counter[Key] = Counter({first: 0})
    waited = 0.0
    for number in range(1000):
        for i in range(min(arrivals[number % len(arrivals)], 4 - len(scale))):
            s.add(Key(f"{number}.{i}", 0), NEVER)
            scale[Key(f"{number}.{i}", 0)] = 0
        batch = s.next_batch()
        if first not in batch:
            waited += len(batch) * s.policy.scale_costs[scale[batch[0]]]
        scale.update(batch)
        done = s.advance(batch)
        for key in done:
            del scale[key]
        if first in done:
            break
    assert first not in scale
    assert waited <= patience + 1e-9
