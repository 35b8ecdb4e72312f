"""Which image goes to which worker: the pure policy."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.dispatch.dispatcher import Dispatcher, Placement
from server.messages import Key
from tests.server.fakes import make_job


def dispatcher(*slots: int) -> Dispatcher:
    """One with a worker for each number of slots."""
    d = Dispatcher()
    for worker, count in enumerate(slots):
        d.open(worker, count)
    return d


def submit(d: Dispatcher, name: str, images: int) -> None:
    d.submit(make_job(name, range(images)))


def placed(d: Dispatcher) -> list[tuple[int, Key]]:
    """The worker and the key of each image that is placed now."""
    return [(p.worker, key_of(p)) for p in d.place()]


def key_of(placement: Placement) -> Key:
    return Key(placement.job.id, placement.image)


def finish(d: Dispatcher, key: Key) -> None:
    d.begun(key)
    d.vacated(key)
    d.painted(key)


def test_images_go_where_most_slots_are_free() -> None:
    d = dispatcher(2, 3)
    submit(d, "a", 4)
    assert [p.worker for p in d.place()] == [1, 0, 1, 0]
    assert d.waiting == 0


def test_what_finds_no_slot_waits_for_any_worker() -> None:
    d = dispatcher(1, 1)
    submit(d, "a", 3)
    assert placed(d) == [(0, Key("a", 0)), (1, Key("a", 1))]
    assert d.place() == []
    assert d.waiting == 1
    finish(d, Key("a", 1))
    assert placed(d) == [(1, Key("a", 2))]


def test_a_slot_is_free_before_its_image_is_decoded() -> None:
    d = dispatcher(1)
    submit(d, "a", 2)
    d.place()
    d.vacated(Key("a", 0))
    assert placed(d) == [(0, Key("a", 1))]
    d.painted(Key("a", 0))
    assert d.place() == [], "a slot was given twice"


def test_slots_are_shared_evenly_between_jobs() -> None:
    d = dispatcher(4, 3)
    submit(d, "a", 10)
    submit(d, "b", 10)
    submit(d, "c", 1)
    assert Counter(p.job.id for p in d.place()) == {"a": 3, "b": 3, "c": 1}


def test_a_large_job_does_not_starve_a_small_one() -> None:
    d = dispatcher(4)
    submit(d, "big", 10)
    d.place()
    submit(d, "small", 1)
    d.vacated(Key("big", 0))
    assert placed(d) == [(0, Key("small", 0))]


def test_a_stream_of_small_jobs_does_not_starve_a_large_one() -> None:
    d = dispatcher(2)
    submit(d, "big", 3)
    running: list[Key] = []
    done: list[Key] = []
    for i in range(12):
        submit(d, f"small{i}", 1)
        running += [key_of(p) for p in d.place()]
        done.append(running.pop(0))
        finish(d, done[-1])
    assert [key.image for key in done if key.job_id == "big"] == [0, 1, 2]
    assert len(done) == 12


def test_a_worker_that_dies_loses_what_it_had_begun_and_the_rest_waits_again_in_front() -> None:
    d = dispatcher(2, 2)
    for name in "abcd":
        submit(d, name, 1)
    assert {p.job.id: p.worker for p in d.place()} == {"a": 0, "b": 1, "c": 0, "d": 1}
    submit(d, "e", 1)
    d.begun(Key("a", 0))
    d.begun(Key("b", 0))
    assert d.close(0) == ["a"]
    assert d.remove("a") == set()  # who had it is gone
    assert d.slots == 2
    assert d.place() == []
    d.painted(Key("b", 0))
    assert placed(d) == [(1, Key("c", 0))]  # before "e", which came later
    d.open(0, 2)
    assert placed(d) == [(0, Key("e", 0))]


def test_an_image_that_is_decoded_is_lost_with_its_worker_too() -> None:
    d = dispatcher(1)
    submit(d, "a", 1)
    d.place()
    d.begun(Key("a", 0))
    d.vacated(Key("a", 0))
    assert d.close(0) == ["a"]


def test_removing_a_job_names_the_workers_to_tell_and_frees_their_slots() -> None:
    d = dispatcher(1, 1, 1)
    submit(d, "a", 2)
    submit(d, "b", 4)
    assert len(d.place()) == 3
    assert d.remove("a") == {0, 2}
    assert d.remove("a") == set()
    assert placed(d) == [(0, Key("b", 1)), (2, Key("b", 2))]


def test_what_a_worker_still_says_of_a_removed_job_is_harmless() -> None:
    d = dispatcher(1)
    submit(d, "a", 1)
    d.place()
    d.remove("a")
    finish(d, Key("a", 0))
    submit(d, "b", 2)
    assert len(d.place()) == 1, "a slot was freed twice"


def test_a_worker_is_sent_a_job_before_its_first_image_of_it_alone() -> None:
    d = dispatcher(2, 1)
    submit(d, "a", 4)
    assert [(p.worker, p.image, p.first) for p in d.place()] == [
        (0, 0, True), (0, 1, False), (1, 2, True),
    ]  # fmt: skip
    finish(d, Key("a", 0))
    assert [(p.worker, p.image, p.first) for p in d.place()] == [(0, 3, False)]


def test_the_successor_of_a_worker_is_sent_the_job_again() -> None:
    d = dispatcher(1)
    submit(d, "a", 2)
    assert [p.first for p in d.place()] == [True]
    assert d.close(0) == []
    d.open(0, 2)
    assert [(p.image, p.first) for p in d.place()] == [(0, True), (1, False)]


def test_a_finished_job_is_kept_until_it_is_removed() -> None:
    """Its workers hold it, and must be told to forget it."""
    d = dispatcher(1, 1)
    submit(d, "a", 2)
    d.place()
    for image in (0, 1):
        finish(d, Key("a", image))
    assert d.remove("a") == {0, 1}


def test_a_job_id_is_used_once_at_a_time() -> None:
    d = dispatcher()
    submit(d, "a", 1)
    with pytest.raises(ValueError, match="already"):
        submit(d, "a", 1)
    with pytest.raises(ValueError, match="no image"):
        submit(d, "b", 0)


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
        self.sent: dict[str, set[int]] = {}  # the workers that have each job
        self.outcomes: Counter[str] = Counter()
        self.created = 0

    @rule(images=st.integers(1, 6))
    def submit(self, images: int) -> None:
        name = f"job{self.created}"
        self.created += 1
        submit(self.d, name, images)
        self.jobs[name] = images
        self.sent[name] = set()

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
        for placement in placements:
            worker, key = placement.worker, key_of(placement)
            sent = self.sent[key.job_id]
            assert placement.first == (worker not in sent), "a job is sent to a worker once"
            sent.add(worker)
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
                self._remove(key.job_id)

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
        for sent in self.sent.values():
            sent.discard(worker)
        assert set(lost) == {key.job_id for key in here & self.begun}
        for key in here:
            self._forget(key)
        for name in lost:
            self._remove(name)

    def _remove(self, name: str) -> None:
        assert self.d.remove(name) == self.sent.pop(name), "finished or not, who has it is told"
        assert self.d.remove(name) == set()
        for key in [key for key in self.at if key.job_id == name]:
            self._forget(key)
        self._over(name)

    def _forget(self, key: Key) -> None:
        del self.at[key]
        self.in_slot.discard(key)
        self.begun.discard(key)

    def _over(self, name: str) -> None:
        self.painted = {key for key in self.painted if key.job_id != name}
        del self.jobs[name]
        self.outcomes[name] += 1

    def _waiting(self) -> int:
        return sum(self.jobs.values()) - len(self.at) - len(self.painted)

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
                self._remove(key.job_id)
        assert sum(self.outcomes.values()) == self.created


TestDispatcherMachine = DispatcherMachine.TestCase
