"""Which image goes to which worker: the pure policy."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.dispatch.dispatcher import Dispatcher, Placement
from server.worker.scheduler import Key


def dispatcher(*slots: int) -> Dispatcher:
    """One with a worker for each number of slots."""
    d = Dispatcher()
    for worker, count in enumerate(slots):
        d.open(worker, count)
    return d


def finish(d: Dispatcher, key: Key) -> None:
    d.begun(key)
    d.vacated(key)
    d.painted(key)


def test_images_go_where_most_slots_are_free() -> None:
    d = dispatcher(2, 3)
    d.submit("a", 4)
    assert [p.worker for p in d.place()] == [1, 0, 1, 0]
    assert d.waiting == 0


def test_what_finds_no_slot_waits_for_any_worker() -> None:
    d = dispatcher(1, 1)
    d.submit("a", 3)
    assert d.place() == [Placement(0, Key("a", 0)), Placement(1, Key("a", 1))]
    assert d.place() == []
    assert d.waiting == 1
    finish(d, Key("a", 1))
    assert d.place() == [Placement(1, Key("a", 2))]


def test_a_slot_is_free_before_its_image_is_decoded() -> None:
    d = dispatcher(1)
    d.submit("a", 2)
    d.place()
    d.vacated(Key("a", 0))
    assert d.place() == [Placement(0, Key("a", 1))]
    d.painted(Key("a", 0))
    assert d.place() == [], "a slot was given twice"


def test_slots_are_shared_evenly_between_jobs() -> None:
    d = dispatcher(4, 3)
    d.submit("a", 10)
    d.submit("b", 10)
    d.submit("c", 1)
    assert Counter(p.key.job_id for p in d.place()) == {"a": 3, "b": 3, "c": 1}


def test_a_large_job_does_not_starve_a_small_one() -> None:
    d = dispatcher(4)
    d.submit("big", 10)
    d.place()
    d.submit("small", 1)
    d.vacated(Key("big", 0))
    assert d.place() == [Placement(0, Key("small", 0))]


def test_a_stream_of_small_jobs_does_not_starve_a_large_one() -> None:
    d = dispatcher(2)
    d.submit("big", 3)
    running: list[Key] = []
    done: list[Key] = []
    for i in range(12):
        d.submit(f"small{i}", 1)
        running += [p.key for p in d.place()]
        done.append(running.pop(0))
        finish(d, done[-1])
    assert [key.image for key in done if key.job_id == "big"] == [0, 1, 2]
    assert len(done) == 12


def test_a_worker_that_dies_loses_what_it_had_begun_and_the_rest_waits_again_in_front() -> None:
    d = dispatcher(2, 2)
    for name in "abcd":
        d.submit(name, 1)
    placed = {p.key.job_id: p.worker for p in d.place()}
    assert placed == {"a": 0, "b": 1, "c": 0, "d": 1}
    d.submit("e", 1)
    d.begun(Key("a", 0))
    d.begun(Key("b", 0))
    assert d.close(0) == ["a"]
    assert d.remove("a") == {0}
    assert d.slots == 2
    assert d.place() == []
    d.painted(Key("b", 0))
    assert d.place() == [Placement(1, Key("c", 0))]  # before "e", which came later
    d.open(0, 2)
    assert d.place() == [Placement(0, Key("e", 0))]


def test_an_image_that_is_decoded_is_lost_with_its_worker_too() -> None:
    d = dispatcher(1)
    d.submit("a", 1)
    d.place()
    d.begun(Key("a", 0))
    d.vacated(Key("a", 0))
    assert d.close(0) == ["a"]


def test_removing_a_job_names_the_workers_to_tell_and_frees_their_slots() -> None:
    d = dispatcher(1, 1, 1)
    d.submit("a", 2)
    d.submit("b", 4)
    assert len(d.place()) == 3
    assert d.remove("a") == {0, 2}
    assert d.remove("a") == set()
    assert d.place() == [Placement(0, Key("b", 1)), Placement(2, Key("b", 2))]


def test_what_a_worker_still_says_of_a_removed_job_is_harmless() -> None:
    d = dispatcher(1)
    d.submit("a", 1)
    d.place()
    d.remove("a")
    finish(d, Key("a", 0))
    d.submit("b", 2)
    assert len(d.place()) == 1, "a slot was freed twice"


def test_a_job_id_is_used_once_at_a_time() -> None:
    d = dispatcher()
    d.submit("a", 1)
    with pytest.raises(ValueError, match="already"):
        d.submit("a", 1)
    with pytest.raises(ValueError, match="0 images"):
        d.submit("b", 0)


class DispatcherMachine(RuleBasedStateMachine):
    """Random arrivals, departures, deaths and progress, against a plain model of what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.d = Dispatcher()
        self.slots: dict[int, int] = {}  # of workers that are ready
        self.jobs: dict[str, int] = {}  # images of those that have no outcome
        self.at: dict[Key, int] = {}  # the worker of each placed image
        self.begun: set[Key] = set()
        self.in_slot: set[Key] = set()
        self.painted: set[Key] = set()
        self.outcomes: Counter[str] = Counter()
        self.created = 0

    @rule(images=st.integers(1, 6))
    def submit(self, images: int) -> None:
        name = f"job{self.created}"
        self.created += 1
        self.d.submit(name, images)
        self.jobs[name] = images

    @rule(worker=st.integers(0, 2), slots=st.integers(1, 3))
    def open(self, worker: int, slots: int) -> None:
        if worker not in self.slots:
            self.d.open(worker, slots)
            self.slots[worker] = slots

    @rule()
    def place(self) -> None:
        waiting, free = self._waiting(), sum(self.slots.values()) - len(self.in_slot)
        placements = self.d.place()
        assert len(placements) == min(waiting, free), "a slot stays free while somebody waits"
        for worker, key in placements:
            assert key not in self.at, "an image is with two workers"
            assert key not in self.painted, "an image is painted twice"
            assert key.job_id in self.jobs
            self.at[key] = worker
            self.in_slot.add(key)
        for worker, slots in self.slots.items():
            assert sum(self.at[key] == worker for key in self.in_slot) <= slots, (
                "more images than slots"
            )

    @precondition(lambda self: self.at)
    @rule(data=st.data(), what=st.sampled_from(["begun", "vacated", "painted"]))
    def progress(self, data: st.DataObject, what: str) -> None:
        key = data.draw(st.sampled_from(sorted(self.at)))
        self.begun.add(key)
        self.d.begun(key)
        if what != "begun":
            self.in_slot.discard(key)
            self.d.vacated(key)
        if what == "painted":
            self.d.painted(key)
            self.painted.add(key)
            self._forget(key)
            if all(Key(key.job_id, i) in self.painted for i in range(self.jobs[key.job_id])):
                self._over(key.job_id)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self._remove(data.draw(st.sampled_from(sorted(self.jobs))))

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.slots)))
        here = {key for key, at in self.at.items() if at == worker}
        lost = self.d.close(worker)
        del self.slots[worker]
        assert set(lost) == {key.job_id for key in here & self.begun}
        for key in here:
            self._forget(key)
        for name in lost:
            self._remove(name)

    def _remove(self, name: str) -> None:
        told = {at for key, at in self.at.items() if key.job_id == name}
        assert {worker for worker in self.d.remove(name) if worker in self.slots} == told
        for key in [key for key in self.at if key.job_id == name]:
            self._forget(key)
        self._over(name)

    def _forget(self, key: Key) -> None:
        del self.at[key]
        self.in_slot.discard(key)
        self.begun.discard(key)

    def _over(self, name: str) -> None:
        del self.jobs[name]
        self.outcomes[name] += 1

    def _waiting(self) -> int:
        painted = sum(key.job_id in self.jobs for key in self.painted)
        return sum(self.jobs.values()) - len(self.at) - painted

    @invariant()
    def counts_agree(self) -> None:
        assert self.d.waiting == self._waiting()
        assert self.d.slots == sum(self.slots.values())
        assert max(self.outcomes.values(), default=0) <= 1, "a job with two outcomes"

    def teardown(self) -> None:
        """With one worker, all that is left is painted."""
        self.open(0, 1)
        while self.jobs:
            self.place()
            assert self.at, "a job was lost"
            key = min(self.at)
            finish(self.d, key)
            self.painted.add(key)
            self._forget(key)
            if all(Key(key.job_id, i) in self.painted for i in range(self.jobs[key.job_id])):
                self._over(key.job_id)
        assert sum(self.outcomes.values()) == self.created


TestDispatcherMachine = DispatcherMachine.TestCase
