"""The scheduling policy, which has no clock and no model."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.messages import Key
from server.worker.scheduler import Policy, Scheduler, resolve_max_step, token_shares
from tests.server.fakes import PATCH_NUMS


class Images:
    """The images that a scheduler chooses from, each with its scale."""

    def __init__(self, max_batch: int = 8, max_step: float = math.inf) -> None:
        self.scheduler = Scheduler(Policy(token_shares(PATCH_NUMS), max_batch, max_step))
        self.scales: dict[Key, int] = {}

    def add(self, *keys: Key) -> None:
        for key in keys:
            self.scheduler.add(key)
            self.scales[key] = 0

    def add_jobs(self, names: str, images: int = 1) -> None:
        self.add(*(Key(name, image) for name in names for image in range(images)))

    def step(self) -> tuple[Key, ...]:
        """Advance the batch that the scheduler chooses, and remove what is finished."""
        batch = self.scheduler.next_batch(self.scales)
        for key in batch:
            self.scales[key] += 1
            if self.scales[key] == len(PATCH_NUMS):
                self.remove(key)
        return batch

    def step_names(self) -> str:
        return "".join(key.job_id for key in self.step())

    def finish_next(self) -> list[Key]:
        """Step until something is finished."""
        before = set(self.scales)
        while before <= set(self.scales):
            self.step()
        return [key for key in before if key not in self.scales]

    def remove(self, key: Key) -> None:
        self.scheduler.remove(key)
        del self.scales[key]

    @property
    def idle(self) -> bool:
        return self.scheduler.next_batch(self.scales) == ()


def test_images_that_arrive_together_step_together_from_start_to_end() -> None:
    images = Images()
    images.add_jobs("abcd")
    assert [images.step_names() for _ in PATCH_NUMS] == ["abcd"] * len(PATCH_NUMS)
    assert images.idle


def test_the_image_that_came_first_leads_and_does_not_wait_for_newcomers() -> None:
    images = Images()
    images.add_jobs("a")
    images.step()
    images.add_jobs("b")
    assert [images.step_names() for _ in range(19)] == ["a"] * 9 + ["b"] * 10


def test_images_of_other_shapes_take_turns() -> None:
    images = Images()
    images.add_jobs("abcd")
    shapes = {key: int(key.job_id in "bd") for key in images.scales}
    scheduler = images.scheduler
    assert [key.job_id for key in scheduler.next_batch(images.scales, shapes)] == ["a", "c"]
    for key in list(images.scales)[::2]:
        images.remove(key)
    assert [key.job_id for key in scheduler.next_batch(images.scales, shapes)] == ["b", "d"]


def test_images_that_meet_at_a_scale_step_together_from_there_on() -> None:
    images = Images(max_batch=2)
    images.add_jobs("abc")
    images.step()
    images.scales[Key("c", 0)] = 1  # as if it had had a step of its own
    images.remove(Key("a", 0))
    assert [images.step_names() for _ in range(9)] == ["bc"] * 9


def test_of_a_cohort_larger_than_a_batch_those_that_came_first_go_first() -> None:
    images = Images(max_batch=2)
    images.add_jobs("abc")
    assert [images.step_names() for _ in range(20)] == ["ab"] * 10 + ["c"] * 10


def test_small_scales_are_batched_and_large_ones_taken_in_turn() -> None:
    images = Images(max_batch=4, max_step=0.2)
    images.add_jobs("abcd")
    batches = [images.step_names() for _ in range(21)]
    assert batches[:6] == ["abcd"] * 6
    # The first is done long before the last has begun its large scales.
    assert batches[6:11] == ["ab", "a", "a", "a", "b"]
    assert sum(len(batch) for batch in batches) == 4 * len(PATCH_NUMS)
    assert images.idle


def test_where_images_take_turns_one_of_another_job_does_not_wait_for_all_of_a_large_job() -> None:
    images = Images(max_step=0.2)
    images.add_jobs("a", images=8)
    images.finish_next()
    images.add_jobs("b")  # in the slot of a's first image
    order: list[Key] = []
    while not images.idle:
        order += images.finish_next()
    assert order.index(Key("b", 0)) <= 1
    assert len(order) == 8


def test_no_stream_of_others_holds_back_the_images_of_a_large_job_for_ever() -> None:
    images = Images(max_step=0.2)
    images.add_jobs("a", images=4)
    order: list[Key] = []
    for i in range(200):
        images.add(Key(f"other{i}", 0))
        order += images.finish_next()
    places = [i for i, key in enumerate(order) if key.job_id == "a"]
    assert len(places) == 4
    assert places[-1] <= 4 * 8 + 3  # it yields eight places for each earlier image of its job


def test_a_step_of_one_image_is_always_allowed() -> None:
    policy = Policy((0.1, 0.9), max_batch=8, max_step=0.5)
    assert [policy.batch_limit(scale) for scale in (0, 1)] == [5, 1]
    assert Policy((0.1, 0.9), max_batch=8).batch_limit(1) == 8


def test_while_slots_are_free_steps_are_smaller() -> None:
    policy = Policy((0.1, 0.3, 0.6), max_batch=4, max_step=1.2)
    limits = {n: [policy.batch_limit(scale, n) for scale in range(3)] for n in (1, 3, 4, 5)}
    assert limits == {1: [4, 2, 1], 3: [4, 2, 1], 4: [4, 4, 2], 5: [4, 4, 2]}
    assert [policy.batch_limit(scale) for scale in range(3)] == [4, 4, 2], "what graphs are for"


def test_the_number_of_images_in_flight_decides_which_bound_holds() -> None:
    scheduler = Scheduler(Policy((0.4, 0.6), max_batch=3, max_step=1.2))
    keys = [Key(name, 0) for name in "abc"]
    for key in keys:
        scheduler.add(key)
    scales = dict.fromkeys(keys, 1)
    assert scheduler.next_batch(scales) == tuple(keys[:2])
    scheduler.remove(keys[2])
    assert scheduler.next_batch(scales) == (keys[0],)


@pytest.mark.parametrize(
    ("given", "mode", "expected"),
    [(0, "deterministic", 0.2), (0, "fast", 1.0), (0.7, "deterministic", 0.7), (3.0, "fast", 3.0)],
)
def test_the_largest_step_follows_the_mode_unless_it_is_set(
    given: float, mode: str, expected: float
) -> None:
    assert resolve_max_step(given, mode) == expected


def test_removing_an_unknown_image_changes_nothing() -> None:
    images = Images()
    images.add_jobs("a", images=2)
    images.scheduler.remove(Key("b", 0))
    images.remove(Key("a", 0))
    assert images.step() == (Key("a", 1),)
    images.remove(Key("a", 1))
    assert images.idle


def test_an_image_is_scheduled_once() -> None:
    images = Images()
    images.add_jobs("a")
    with pytest.raises(ValueError, match="image 0 of job a is already"):
        images.add_jobs("a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale_costs": ()}, "scale_costs"),
        ({"scale_costs": (0.5, 0.0)}, "scale_costs"),
        ({"max_batch": 0}, "max_batch"),
        ({"max_step": 0.0}, "max_step"),
    ],
)
def test_an_invalid_policy_is_refused(changes: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"scale_costs": (0.1, 0.9), "max_batch": 1}
    with pytest.raises(ValueError, match=message):
        Policy(**(values | changes))  # type: ignore[arg-type]


class SchedulerMachine(RuleBasedStateMachine):
    """Random arrivals, departures and steps, against a plain model of what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.costs = (0.05, 0.15, 0.3, 0.5)
        self.policy = Policy(self.costs, max_batch=3, max_step=0.6)
        self.s = Scheduler(self.policy)
        self.scale: dict[Key, int] = {}
        self.arrivals: list[Key] = []
        self.created = 0

    @rule(images=st.integers(1, 4))
    def arrive(self, images: int) -> None:
        name = f"job{self.created}"
        self.created += 1
        for image in range(images):
            self.s.add(Key(name, image))
            self.scale[Key(name, image)] = 0
            self.arrivals.append(Key(name, image))

    @rule()
    def step(self) -> None:
        batch = self.s.next_batch(self.scale)
        assert bool(batch) == bool(self.scale)
        assert len(set(batch)) == len(batch) <= 3, "one image twice in a step"
        assert len({self.scale[key] for key in batch}) <= 1, "a step over several scales"
        if batch:
            cost = self.costs[self.scale[batch[0]]]
            assert len(batch) == 1 or cost * len(batch) <= 0.6, "more work than max_step"
        for key in batch:
            self.scale[key] += 1
            if self.scale[key] == len(self.costs):
                self._remove(key)

    @precondition(lambda self: self.scale)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted({key.job_id for key in self.scale})))
        for key in [key for key in self.scale if key.job_id == name]:
            self._remove(key)

    def _remove(self, key: Key) -> None:
        self.s.remove(key)
        del self.scale[key]

    @invariant()
    def asking_changes_nothing(self) -> None:
        assert self.s.next_batch(self.scale) == self.s.next_batch(self.scale)

    @invariant()
    def the_leader_is_one_that_others_of_its_job_do_not_precede(self) -> None:
        if batch := self.s.next_batch(self.scale):
            earlier = self.arrivals[: self.arrivals.index(batch[0])]
            assert not any(k.job_id == batch[0].job_id and k in self.scale for k in earlier)

    def teardown(self) -> None:
        """With no newcomers, all that is left finishes within as many steps as there are scales to do."""
        for _ in range(len(self.scale) * len(self.costs)):
            self.step()
        assert not self.scale


TestSchedulerMachine = SchedulerMachine.TestCase


@given(arrivals=st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_an_image_alone_in_its_job_is_never_overtaken(arrivals: list[int]) -> None:
    """Whoever comes later, each step of the scheduler advances the image that came first."""
    images = Images(max_batch=4, max_step=0.2)
    first = Key("first", 0)
    images.add(first)
    for number in range(len(PATCH_NUMS)):
        for i in range(min(arrivals[number % len(arrivals)], 4 - len(images.scales))):
            images.add(Key(f"{number}.{i}", 0))
        assert first in images.step()
    assert first not in images.scales
