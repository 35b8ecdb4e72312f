"""The main loop over an engine that does its work later, as a GPU does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pytest

from server.messages import Failed, Freed, Painted, Pixels, Preview, Timing
from server.worker.pending import Pending
from tests.server.fakes import FakeEngine, FakeSequence, Step, make_job, paint
from tests.server.loop_run import Run

T = TypeVar("T")


@dataclass
class Later(Generic[T]):
    """Work that is done when somebody waits for it, or for what was given after it."""

    name: str
    result: T
    log: list[str]
    queue: list[Later[Any]]
    error: Exception | None = None
    done: bool = False

    def wait(self) -> T:
        while not self.done:
            first = self.queue.pop(0)
            first.done = True
        self.log.append(f"waited for {self.name}")
        if self.error is not None:
            raise self.error
        return self.result


@dataclass
class LateEngine(FakeEngine):
    """Writes down what it is given, and what is waited for; the step of a prompt with ``late`` fails only then."""

    log: list[str] = field(default_factory=list)
    queue: list[Later[Any]] = field(default_factory=list)
    _count: int = 0

    def step(self, sequences: Sequence[FakeSequence]) -> Pending[None]:
        super().step(sequences)
        failing = any("late" in s.job.prompt for s in sequences)
        return self._give(
            f"step {sequences[0].scale - 1}", None, SystemError("late") if failing else None
        )

    def preview(self, sequences: Sequence[FakeSequence]) -> Pending[list[Pixels]]:
        return self._give("preview", super().preview(sequences).wait())

    def finish(self, sequences: Sequence[FakeSequence]) -> Pending[list[Pixels]]:
        return self._give("finish", super().finish(sequences).wait())

    def _give(self, name: str, result: T, error: Exception | None = None) -> Later[T]:
        self.log.append(f"gave {name}")
        later = Later(name, result, self.log, self.queue, error)
        self.queue.append(later)
        return later


def test_the_next_step_is_given_before_the_last_is_waited_for() -> None:
    engine = LateEngine(num_scales=10)
    run = Run(engine)
    run.submit(make_job("a", [7], partial_images=1))
    run.run()
    assert engine.log[:6] == [
        "gave step 0", "gave step 1", "waited for step 0", "gave step 2", "waited for step 1", "gave step 3",
    ]  # fmt: skip
    preview = engine.log.index("gave preview")
    assert engine.log[preview - 1 : preview + 5] == [
        "gave step 6", "gave preview", "waited for step 5", "gave step 7", "waited for step 6", "waited for preview",
    ]  # fmt: skip
    assert engine.log[-5:] == [
        "gave step 9", "gave finish", "waited for step 8", "waited for step 9", "waited for finish",
    ]  # fmt: skip
    assert [p.pixels for p in run.of(Preview)] == [paint(7, 7)]
    assert [p.pixels for p in run.of(Painted)] == [paint(7, 10)]


def test_the_images_are_those_of_an_engine_that_does_all_at_once() -> None:
    outcomes = []
    for engine in (FakeEngine(slots=3), LateEngine(slots=3)):
        run = Run(engine)
        run.submit(
            make_job("a", [1, 2], partial_images=3), make_job("b", [3]), make_job("c", [4, 5])
        )
        run.run()
        outcomes.append(
            (sorted(run.of(Painted), key=str), sorted(run.of(Preview), key=str), engine.steps)
        )
    assert outcomes[0][0] == outcomes[1][0]
    assert {p.pixels.data for p in outcomes[0][1]} == {p.pixels.data for p in outcomes[1][1]}
    assert len(outcomes[1][0]) == 5


def test_a_slot_is_free_while_its_image_is_decoded() -> None:
    run = Run(LateEngine(slots=1))
    run.submit(make_job("a", [1]), make_job("b", [2]))
    run.run()
    order = [m for m in run.sent if isinstance(m, (Freed, Painted))]
    assert [(type(m), m.job_id) for m in order] == [
        (Freed, "a"), (Painted, "a"), (Freed, "b"), (Painted, "b"),
    ]  # fmt: skip
    steps = [m.scale for m in run.of(Timing) if m.stage == "scale_step"]
    assert steps == [*range(10), *range(10)]
    log = run.engine.log if isinstance(run.engine, LateEngine) else []
    assert log.index("waited for finish") > log.index("gave step 0", 5), (
        "the next image has begun by then"
    )


def test_what_was_cancelled_meanwhile_is_not_sent() -> None:
    engine = LateEngine(slots=1)
    run = Run(engine)

    def cancel(step: Step) -> None:
        if step == Step(9, (1,)):  # it is read after the image has been given to be decoded
            run.cancel("a")

    engine.on_step = cancel
    run.submit(make_job("a", [1]), make_job("b", [2]))
    run.run()
    assert engine.log.count("waited for finish") == 2
    assert [p.job_id for p in run.of(Painted)] == ["b"]
    assert engine.released == 2


def test_an_error_that_shows_later_ends_the_loop_and_names_its_jobs() -> None:
    run = Run(LateEngine())
    run.submit(make_job("a", [1], prompt="late"))
    with pytest.raises(SystemError, match="late"):
        run.run()
    (failed,) = run.of(Failed)
    assert (failed.job_id, failed.code) == ("a", "internal_error")


def test_times_do_not_overlap() -> None:
    ticks = iter(range(10_000))
    run = Run(LateEngine(), lambda: float(next(ticks)))
    run.submit(make_job("a", [1]))
    run.run()
    total = next(ticks)
    seconds = [t.seconds for t in run.of(Timing) if t.stage != "text_encode"]
    assert min(seconds) > 0
    assert sum(seconds) <= total
