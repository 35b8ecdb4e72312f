"""Tenants share evenly and classes keep their order, in the scheduler and in the dispatcher: properties."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.dispatch.dispatcher import Dispatcher
from server.fair_turns import FairTurns
from server.messages import BATCH, INTERACTIVE, Key
from server.worker.scheduler import Policy, Scheduler
from tests.server.fakes import make_job

TENANTS = "abc"
COSTS = (0.2, 0.3, 0.5)

Submission = tuple[str, int, int]
"""Tenant, class, number of images."""

submissions = st.tuples(
    st.sampled_from(TENANTS), st.sampled_from([INTERACTIVE, BATCH]), st.integers(1, 3)
)


# ---- turns ---------------------------------------------------------------------------------------------------
def test_tenants_take_turns_and_one_that_was_away_has_saved_nothing() -> None:
    fair = FairTurns()
    for turn in range(10):
        assert fair.take("a") == turn
        fair.serve(turn)
    assert fair.next("a") == 10
    assert [fair.take("b") for _ in range(3)] == [9, 10, 11]


def test_turns_behind_the_one_that_is_served_are_not_kept() -> None:
    fair = FairTurns()
    for i in range(1000):
        fair.serve(fair.take(f"tenant {i}"))
    assert fair.take("busy") == 0
    fair.serve(0)
    fair.serve(5)
    assert vars(fair)["_next"] == {}


# ---- scheduler -----------------------------------------------------------------------------------------------
@dataclass
class InSlots:
    """Images in the slots of a worker that steps one at a time, each with its tenant and class."""

    scheduler: Scheduler = field(
        default_factory=lambda: Scheduler(Policy(COSTS, max_batch=4, max_step=0.01))
    )
    scales: dict[Key, int] = field(default_factory=dict)
    of: dict[Key, tuple[int, str]] = field(default_factory=dict)
    finished: list[Key] = field(default_factory=list)
    jobs: int = 0

    def submit(self, tenant: str, priority: int = INTERACTIVE, images: int = 1) -> list[Key]:
        keys = [Key(f"{tenant}{self.jobs}", image) for image in range(images)]
        self.jobs += 1
        for key in keys:
            self.scheduler.add(key, tenant, priority)
            self.scales[key], self.of[key] = 0, (priority, tenant)
        return keys

    def step(self) -> tuple[Key, ...]:
        batch = self.scheduler.next_batch(self.scales)
        for key in batch:
            self.scales[key] += 1
            if self.scales[key] == len(COSTS):
                self.finished.append(key)
                self.remove(key)
        return batch

    def remove(self, key: Key) -> None:
        self.scheduler.remove(key)
        del self.scales[key]


def test_an_image_of_another_tenant_goes_before_the_second_of_many() -> None:
    slots = InSlots()
    for _ in range(7):
        slots.submit("a")
    slots.step()
    (late,) = slots.submit("b")
    while slots.scales:
        slots.step()
    assert slots.finished.index(late) <= 1


def test_tenants_take_turns_image_by_image() -> None:
    slots = InSlots()
    slots.submit("a", images=3)
    slots.submit("b", images=3)
    while slots.scales:
        slots.step()
    assert "".join(key.job_id[0] for key in slots.finished) == "ababab"


@given(st.lists(st.one_of(submissions, st.none()), max_size=40), st.sampled_from(TENANTS))
def test_an_image_waits_for_one_of_each_other_tenant_at_most(
    history: list[Submission | None], tenant: str
) -> None:
    """Whatever came before and comes after it; None is a step."""
    slots = InSlots()
    for event in history:
        if event is None:
            slots.step()
        elif event[0] != tenant:
            slots.submit(*event)
    (late,) = slots.submit(tenant)
    before = len(slots.finished)
    for event in history:
        slots.step()
        if event is not None and event[0] != tenant:
            slots.submit(*event)
    while late in slots.scales:
        slots.step()
    waited_for = slots.finished[before : slots.finished.index(late)]
    assert max(Counter(slots.of[key] for key in waited_for).values(), default=0) <= 1
    assert all(slots.of[key][0] == INTERACTIVE for key in waited_for)


@given(st.lists(st.one_of(submissions, st.none(), st.integers(0, 99)), max_size=40))
def test_a_step_is_of_the_highest_class_alone(history: list[Submission | int | None]) -> None:
    """None is a step, a number a cancelled image."""
    slots = InSlots(Scheduler(Policy(COSTS, max_batch=4)))
    for event in history:
        if event is None:
            classes = {slots.of[key][0] for key in slots.scales}
            assert {slots.of[key][0] for key in slots.step()} == set(sorted(classes)[:1])
        elif isinstance(event, tuple):
            slots.submit(*event)
        elif slots.scales:
            slots.remove(sorted(slots.scales)[event % len(slots.scales)])
    while slots.scales:
        assert slots.step(), "an image was left behind"


@given(st.lists(st.one_of(st.integers(1, 4), st.none()), max_size=30))
def test_within_one_tenant_the_order_is_that_of_turns(history: list[int | None]) -> None:
    """An image yields ``max_batch`` places for each image of its job before it; None is a step."""
    slots, turns = InSlots(), dict[Key, int]()
    for event in history:
        if event is None:
            expected = sorted(slots.scales, key=turns.__getitem__)[:1]
            assert list(slots.step()) == expected
        else:
            for image, key in enumerate(slots.submit("a", images=event)):
                turns[key] = len(turns) + 4 * image


# ---- dispatcher ----------------------------------------------------------------------------------------------
class Queue:
    """A dispatcher before one worker, whose images finish in the order in which they were placed."""

    def __init__(self, slots: int) -> None:
        self.dispatcher = Dispatcher()
        self.dispatcher.open(0, slots)
        self.running: deque[Key] = deque()
        self.placed: list[tuple[int, str]] = []
        self.waiting: defaultdict[tuple[int, str], int] = defaultdict(int)
        self.jobs = 0

    def submit(self, tenant: str, priority: int = INTERACTIVE, images: int = 1) -> None:
        name = f"job{self.jobs}"
        self.jobs += 1
        self.dispatcher.submit(make_job(name, range(images), tenant=tenant, priority=priority))
        self.waiting[priority, tenant] += images

    def place(self) -> None:
        for placement in self.dispatcher.place():
            job = placement.job
            self.running.append(Key(job.id, placement.image))
            self.placed.append((job.priority, job.tenant))
            self.waiting[job.priority, job.tenant] -= 1

    def finish(self) -> None:
        if self.running:
            key = self.running.popleft()
            self.dispatcher.painted(key)

    def turn(self) -> None:
        self.finish()
        self.place()


def test_a_thousand_images_of_one_tenant_do_not_stand_before_one_of_another() -> None:
    queue = Queue(slots=2)
    for _ in range(1000):
        queue.submit("many")
    for _ in range(20):
        queue.turn()
    queue.submit("one")
    before = len(queue.placed)
    queue.turn()
    queue.turn()
    assert (INTERACTIVE, "one") in queue.placed[before:]


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_tenants_with_work_get_the_same_number_of_images(slots: int) -> None:
    queue = Queue(slots)
    for _ in range(60):
        queue.submit("a")
    for _ in range(6):
        queue.submit("b", images=10)
    queue.submit("c", images=60)
    while len(queue.placed) < 90:
        queue.turn()
    counts = Counter(tenant for _, tenant in queue.placed[:90])
    assert max(counts.values()) - min(counts.values()) <= 1


@given(st.integers(1, 4), st.lists(st.one_of(submissions, st.none()), max_size=60))
def test_no_tenant_with_work_falls_behind_another(
    slots: int, history: list[Submission | None]
) -> None:
    """While two tenants of a class wait, neither gets two more images than the other; None is a turn."""
    queue = Queue(slots)
    since: dict[tuple[int, str, str], int] = {}  # since which placement two have waited together
    for event in history:
        if event is not None:
            queue.submit(*event)
        waiting = {name for name, images in queue.waiting.items() if images > 0}
        pairs = {(p, a, b) for p, a in waiting for q, b in waiting if p == q and a != b}
        since = {pair: since.get(pair, len(queue.placed)) for pair in pairs}
        if event is None:
            queue.turn()
            for (priority, a, b), start in since.items():
                if min(queue.waiting[priority, a], queue.waiting[priority, b]) > 0:
                    got = Counter(queue.placed[start:])
                    assert got[priority, a] - got[priority, b] <= 2


@given(st.integers(1, 4), st.lists(st.one_of(submissions, st.none()), max_size=60))
def test_a_slot_goes_to_the_highest_class_that_waits(
    slots: int, history: list[Submission | None]
) -> None:
    queue = Queue(slots)
    for event in history:
        if event is not None:
            queue.submit(*event)
            continue
        before = len(queue.placed)
        queue.turn()
        given_to = [priority for priority, _ in queue.placed[before:]]
        assert given_to == sorted(given_to)
        interactive_left = sum(n for (p, _), n in queue.waiting.items() if p == INTERACTIVE)
        assert BATCH not in given_to or interactive_left == 0


# ---- slots taken back ----------------------------------------------------------------------------------------
def test_an_image_without_a_slot_takes_the_latest_of_a_lower_class() -> None:
    d = Dispatcher()
    d.open(0, 3)
    d.submit(make_job("early", range(1), priority=BATCH))
    d.submit(make_job("late", range(4), priority=BATCH))
    d.submit(make_job("busy", range(1)))
    assert [p.job.id for p in d.place()] == ["busy", "early", "late"]
    assert d.recall() == [], "all of the higher class have slots"
    d.submit(make_job("new", range(1)))
    assert d.place() == []
    assert d.recall() == [(0, Key("late", 0))]
    assert d.recall() == [], "it has been asked for"
    d.begun(Key("late", 0))
    d.withdrawn(Key("late", 0))
    assert [(p.job.id, p.first) for p in d.place()] == [("new", True)]
    assert d.close(0) == [], "what was given back is not lost"
    d.open(0, 9)
    assert [p.image for p in d.place() if p.job.id == "late"] == [0, 1, 2, 3]


def test_an_image_that_is_finished_before_it_is_asked_back_frees_its_slot_once() -> None:
    d = Dispatcher()
    d.open(0, 1)
    d.submit(make_job("batch", range(1), priority=BATCH))
    d.place()
    d.submit(make_job("a", range(2)))
    assert d.recall() == [(0, Key("batch", 0))]
    d.vacated(Key("batch", 0))
    d.painted(Key("batch", 0))
    assert len(d.place()) == 1
    assert d.recall() == []


@dataclass
class Recalled:
    """A dispatcher before workers that answer in any order."""

    dispatcher: Dispatcher = field(default_factory=Dispatcher)
    at: dict[Key, int] = field(default_factory=dict)
    of: dict[Key, int] = field(default_factory=dict)
    asked: set[Key] = field(default_factory=set)
    painted: Counter[Key] = field(default_factory=Counter)

    def place(self) -> None:
        for placement in self.dispatcher.place():
            key = Key(placement.job.id, placement.image)
            assert key not in self.at, "an image is with two workers"
            self.at[key] = placement.worker
        recalls = self.dispatcher.recall()
        assert not recalls or len(self.asked) + len(recalls) <= self.waiting
        for worker, key in recalls:
            assert self.at[key] == worker
            assert key not in self.asked
            assert self.of[key] == BATCH
            self.asked.add(key)

    @property
    def waiting(self) -> int:
        """Interactive images without a slot."""
        begun = self.at.keys() | self.painted.keys()
        return sum(p == INTERACTIVE for key, p in self.of.items() if key not in begun)

    def submit(self, name: str, priority: int, images: int) -> None:
        self.dispatcher.submit(make_job(name, range(images), priority=priority))
        self.of |= {Key(name, image): priority for image in range(images)}

    def finish(self, key: Key) -> None:
        self.dispatcher.vacated(key)
        self.dispatcher.painted(key)
        self.painted[key] += 1
        self.asked.discard(key)
        del self.at[key]

    def give_back(self, key: Key) -> None:
        self.dispatcher.withdrawn(key)
        self.asked.remove(key)
        del self.at[key]


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.lists(st.one_of(submissions, st.tuples(st.booleans(), st.integers(0, 99))), max_size=60),
)
def test_lower_classes_give_way_and_every_image_is_painted_once(
    slots: list[int], history: list[Submission | tuple[bool, int]]
) -> None:
    """Pairs are answers of workers: an image that was asked back is given back, or one is finished."""
    run = Recalled()
    for worker, count in enumerate(slots):
        run.dispatcher.open(worker, count)
    for number, event in enumerate(history):
        if len(event) == 3:
            run.submit(f"job{number}", event[1], event[2])
        elif event[0] and run.asked:
            run.give_back(sorted(run.asked)[event[1] % len(run.asked)])
        elif run.at:
            run.finish(sorted(run.at)[event[1] % len(run.at)])
        run.place()
        assert len(run.at) <= sum(slots), "more images than slots"
        batch = sum(run.of[key] == BATCH for key in run.at)
        assert len(run.asked) >= min(run.waiting, batch), "a slot is not asked for"
    while run.at:
        run.finish(min(run.at))
        run.place()
    assert run.painted == Counter(run.of.keys())
