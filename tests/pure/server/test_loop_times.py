"""What the worker's main loop tells of its work: how long each piece took, for whom, and whether it is busy."""

from __future__ import annotations

import itertools
from collections import Counter

from server.messages import ReadPrompt, Shutdown, Timing
from star_model.reading import Reading
from tests.server.fakes import FakeEngine, FakeText, make_job
from tests.server.loop_run import Run


def test_every_piece_of_work_is_timed() -> None:
    run = Run()
    run.submit(make_job("a", partial_images=1))
    run.run()
    assert Counter(t.stage for t in run.of(Timing)) == {
        "text_encode": 1,
        "scale_step": 10,
        "preview_decode": 1,
        "vae_decode": 1,
    }
    assert [t.scale for t in run.of(Timing) if t.stage == "scale_step"] == list(range(10))


def test_the_work_for_a_traced_request_names_its_images() -> None:
    now = itertools.count()
    run = Run(clock=lambda: float(next(now)))
    traced = make_job("a", [1, 2], trace_id="ab" * 16, partial_images=1, negative_prompt="fog")
    run.submit(traced, make_job("b", [3], prompt="a lion"))
    run.run()
    images = {t.images for t in run.of(Timing) if t.stage in ("scale_step", "vae_decode")}
    assert images == {(("a", 0), ("a", 1))}, "those of the other request are counted, not named"
    assert all(t.batch == 3 for t in run.of(Timing) if t.stage == "scale_step")
    texts = [t.images for t in run.of(Timing) if t.stage == "text_encode"]
    assert texts == [(("a", 0),), (("a", 0),), ()], "encoded once, for the first image"
    assert all(t.seconds <= t.ended_at for t in run.of(Timing))


def test_the_work_for_a_request_that_is_not_traced_names_nothing() -> None:
    run = Run()
    run.submit(make_job("a", [1, 2]), make_job("b", [3], trace_id="ab" * 16))
    run.cancel("b")
    run.run()
    assert {t.images for t in run.of(Timing)} == {()}, "nor does that for one that was cancelled"


def test_the_state_says_what_is_going_on() -> None:
    run = Run(FakeEngine(slots=3))
    seen: list[tuple[int, bool]] = []
    run.engine.on_step = lambda _: seen.append((run.loop.state.slots_in_use, run.loop.state.idle))
    run.submit(make_job("a", [1, 2]))
    run.run()
    assert seen == [(2, False)] * 10
    assert run.loop.state.idle


def test_a_prompt_that_takes_long_to_encode_counts_as_work() -> None:
    """The supervisor kills a loop that is busy for too long, so waiting for messages must not look like it."""
    now = [0.0]
    beats: list[tuple[bool, float]] = []

    class SlowEncoder(FakeEngine):
        def encode(self, prompt: str, *, literal: bool = False) -> FakeText:
            beats.append((run.loop.state.idle, run.loop.state.turned_at))
            now[0] += 100.0
            return super().encode(prompt, literal=literal)

    run = Run(SlowEncoder(), clock=lambda: now[0])
    now[0] = 50.0  # the loop has been idle until now
    run.submit(make_job("a", negative_prompt="fog"))
    run.run()
    assert beats == [(False, 50.0), (False, 50.0)]


def test_a_prompt_that_takes_long_to_read_counts_as_work() -> None:
    now = [0.0]
    beats: list[tuple[bool, float]] = []

    class SlowReader(FakeEngine):
        def read(self, prompt: str) -> Reading:
            beats.append((run.loop.state.idle, run.loop.state.turned_at))
            now[0] += 100.0
            return super().read(prompt)

    run = Run(SlowReader(), clock=lambda: now[0])
    now[0] = 50.0  # the loop has been idle until now
    for message in (ReadPrompt(1, "a"), ReadPrompt(2, "b"), Shutdown()):
        run.inbox.put(message)
    run.run()
    assert beats == [(False, 50.0), (False, 150.0)]
