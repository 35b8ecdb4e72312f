"""The worker's main loop around a fake engine: what it steps, decodes and sends, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.messages import (
    BATCH,
    Accept,
    Cancel,
    Failed,
    Freed,
    FromWorker,
    Job,
    Paint,
    Painted,
    Preview,
    PromptEncoded,
    PromptRead,
    ReadPrompt,
    Started,
    Timing,
    Withdraw,
    Withdrawn,
)
from server.worker.engine_loop import preview_scales
from star_model.sampling import Sampling
from tests.server.fakes import (
    NOTE,
    PATCH_NUMS,
    FakeEngine,
    Step,
    make_job,
    paint,
)
from tests.server.loop_run import Run

MINI = (1, 2, 4, 8, 16, 16, 16)
"""Sides of the default model's scales."""


def test_requests_that_are_there_together_step_together() -> None:
    run = Run()
    run.submit(*(make_job(name, [i]) for i, name in enumerate("abcd")))
    run.run()
    assert run.engine.steps == [Step(scale, (0, 1, 2, 3)) for scale in range(len(PATCH_NUMS))]
    assert {p.job_id: p.pixels for p in run.of(Painted)} == {
        name: paint(i, 10) for i, name in enumerate("abcd")
    }


def test_batch_work_is_neither_prepared_nor_stepped_beside_interactive_work() -> None:
    run = Run()

    def on_step(step: Step) -> None:
        if step == Step(5, (1,)):
            run.submit(make_job("late", [2], prompt="a bell", partial_images=0))
            run.submit(make_job("other batch", [3], prompt="a cup", priority=BATCH))

    run.engine.on_step = on_step
    run.submit(make_job("batch", [1], prompt="an owl", priority=BATCH, partial_images=3))
    run.run()
    assert [step.seeds for step in run.engine.steps[:16]] == [(1,)] * 6 + [(2,)] * 10
    assert run.engine.encoded == ["an owl", "a bell", "a cup"]
    painted = [message.job_id for message in run.of(Painted)]
    assert painted == ["late", "batch", "other batch"]
    first = run.sent.index(run.of(Painted)[0])
    assert [type(m) for m in run.sent[:first]].count(Preview) == 1, (
        "it was shown before the other began"
    )


@pytest.mark.parametrize("after", range(len(PATCH_NUMS)))
def test_an_image_that_is_asked_back_frees_its_slot_and_begins_again(after: int) -> None:
    run = Run(FakeEngine(slots=1))

    def on_step(step: Step) -> None:
        if run.engine.steps == [Step(scale, (1,)) for scale in range(after + 1)]:
            run.inbox.put(Withdraw("batch", 0))
            run.submit(make_job("new", [2]))

    def publish(message: FromWorker) -> None:
        if message == Withdrawn("batch", 0):
            run.inbox.put(Paint("batch", 0))
        run._publish(message)

    run.loop._publish = publish
    run.engine.on_step = on_step
    run.submit(make_job("batch", [1], priority=BATCH))
    run.run()
    finished_first = after == len(PATCH_NUMS) - 1
    order = ["batch", "new"] if finished_first else ["new", "batch"]
    assert [message.job_id for message in run.of(Painted)] == order
    assert len(run.of(Withdrawn)) == (0 if finished_first else 1)
    assert {p.job_id: p.pixels for p in run.of(Painted)} == {
        "batch": paint(1, 10),
        "new": paint(2, 10),
    }
    assert run.engine.free_slots == 1


def test_an_image_that_has_no_slot_yet_is_given_back_and_one_that_is_unknown_is_not() -> None:
    run = Run()
    run.submit(make_job("a", [1]))
    run.inbox.put(Accept(make_job("b", [2])))
    for message in (
        Paint("b", 0),
        Withdraw("b", 0),
        Withdraw("b", 0),
        Withdraw("c", 0),
        Cancel("b"),
    ):
        run.inbox.put(message)
    run.run()
    assert run.of(Withdrawn) == [Withdrawn("b", 0)]
    assert [step.seeds for step in run.engine.steps] == [(1,)] * len(PATCH_NUMS)


def test_a_request_that_comes_in_mid_flight_does_not_hold_up_what_is_ahead_of_it() -> None:
    run = Run()

    def on_step(step: Step) -> None:
        if step == Step(2, (1,)):
            run.submit(make_job("late", [2]))

    run.engine.on_step = on_step
    run.submit(make_job("early", [1]))
    run.run()
    assert [step.seeds for step in run.engine.steps] == [(1,)] * 10 + [(2,)] * 10
    assert [p.job_id for p in run.of(Painted)] == ["early", "late"]


def test_a_request_whose_turn_comes_is_joined_by_those_at_its_scale() -> None:
    run = Run()

    def on_step(step: Step) -> None:
        if step == Step(2, (1,)):
            run.submit(make_job("b", [2]))
        if step == Step(9, (1,)):
            run.submit(make_job("c", [3]))

    run.engine.on_step = on_step
    run.submit(make_job("a", [1]))
    run.run()
    assert [step.seeds for step in run.engine.steps] == [(1,)] * 10 + [(2, 3)] * 10


def test_a_job_becomes_one_sequence_for_each_seed() -> None:
    run = Run()
    run.submit(make_job("a", [5, 6, 7]))
    run.run()
    assert [(p.image, p.pixels) for p in run.of(Painted)] == [
        (i, paint(5 + i, 10)) for i in range(3)
    ]
    assert [(s.job_id, s.image) for s in run.of(Started)] == [("a", 0), ("a", 1), ("a", 2)]


def test_a_prompt_is_encoded_once_and_alone() -> None:
    run = Run()
    run.submit(
        make_job("a", [1, 2]),
        make_job("b", [3]),
        make_job("c", [4], prompt="x", negative_prompt="y"),
    )
    run.run()
    assert run.engine.encoded == ["a red apple", "x", "y"]


def test_what_a_prompt_was_read_as_is_reported_and_a_negative_one_is_not() -> None:
    run = Run()
    run.submit(
        make_job("a", prompt="a woman"), make_job("b", prompt="a fox", negative_prompt="a woman")
    )
    run.run()
    told, untold = run.of(PromptEncoded)
    assert told.warnings == (NOTE,)
    assert untold.warnings == ()


def test_a_prompt_is_read_without_a_job() -> None:
    run = Run()
    run.inbox.put(ReadPrompt(7, "a woman"))
    run.submit(make_job("a"))
    run.run()
    (answer,) = run.of(PromptRead)
    assert (answer.number, answer.reading.unknown) == (7, "woman")
    assert run.engine.encoded == ["a red apple"]


def test_what_does_not_fit_of_a_prompt_is_reported() -> None:
    run = Run()
    run.submit(make_job("a", prompt="word " * 40 + "the rest"))
    run.run()
    (read,) = run.of(PromptEncoded)
    assert "'the rest'" in read.warnings[0]
    assert read.tokens == 40


def test_previews_come_after_their_scales() -> None:
    run = Run()
    run.submit(make_job("a", [3], partial_images=2), make_job("b", [4]))
    run.run()
    assert [(p.job_id, p.index, p.pixels) for p in run.of(Preview)] == [
        ("a", 0, paint(3, 6)),
        ("a", 1, paint(3, 8)),
    ]


def test_a_draft_ends_before_the_last_scales() -> None:
    run = Run()
    draft = replace(make_job("a", [3], partial_images=2), sampling=Sampling(draft=2))
    run.submit(draft, make_job("b", [4]))
    run.run()
    assert {p.job_id: p.pixels for p in run.of(Painted)} == {"a": paint(3, 8), "b": paint(4, 10)}
    assert [(p.index, p.pixels) for p in run.of(Preview)] == [(0, paint(3, 5)), (1, paint(3, 6))]
    assert run.engine.free_slots == run.engine.total_slots


@pytest.mark.parametrize(
    ("sides", "previews", "expected"),
    [
        (MINI, 0, ()),
        (MINI, 1, (4,)),
        (MINI, 2, (3, 4)),
        (MINI, 3, (3, 4, 5)),
        (MINI[:5], 2, (3, 4)),  # a draft
        ((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 1, (6,)),
        ((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 2, (5, 7)),
        ((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 3, (4, 6, 8)),
        ((1, 2, 16), 3, (1, 2)),  # too few that can be seen
        ((1, 2), 3, (1,)),
        ((1,), 3, ()),
    ],
)
def test_previews_are_spread_over_the_scales_that_show_something(
    sides: Sequence[int], previews: int, expected: tuple[int, ...]
) -> None:
    assert preview_scales(sides, previews) == expected


def test_a_cancelled_job_leaves_between_scales_and_frees_its_slots() -> None:
    run = Run()

    def on_step(step: Step) -> None:
        if step.scale == 4:
            run.cancel("a")

    run.engine.on_step = on_step
    run.submit(make_job("a", [1, 2]), make_job("b", [3]))
    run.run()
    assert [step.seeds for step in run.engine.steps] == [(1, 3, 2)] * 5 + [(3,)] * 5
    assert run.engine.free_slots == run.engine.total_slots
    assert {p.job_id for p in run.of(Painted)} == {"b"}


@pytest.mark.parametrize(
    ("word", "code"),
    [("explode", "internal_error"), ("oom", "out_of_memory"), ("unreadable", "internal_error")],
)
def test_a_failure_ends_only_the_jobs_of_its_batch(word: str, code: str) -> None:
    run = Run()

    def on_step(step: Step) -> None:
        if step.scale == 9 and not run.of(Failed):
            run.submit(make_job("bad", [2], prompt=word), make_job("later", [3]))

    run.engine.on_step = on_step
    run.submit(make_job("good", [1]))
    run.run()
    failed = {f.job_id: f.code for f in run.of(Failed)}
    assert failed["bad"] == code
    assert "good" not in failed
    assert ("later" in failed) == (word != "unreadable")  # it shared the first step of "bad"
    assert run.engine.free_slots == run.engine.total_slots
    assert word not in failed or word not in run.of(Failed)[0].message


def test_a_fatal_error_fails_its_batch_and_ends_the_loop() -> None:
    run = Run()
    run.submit(make_job("a", prompt="fatal"))
    with pytest.raises(SystemError):
        run.run()
    assert [f.job_id for f in run.of(Failed)] == ["a"]


def test_an_image_of_a_job_that_has_ended_is_not_begun() -> None:
    run = Run(FakeEngine(slots=1))
    # Sent before the parent hears of the failure, and read after it.
    run.engine.on_step = lambda step: run.inbox.put(Paint("bad", 0)) if 1 in step.seeds else None
    run.submit(make_job("bad", [1], prompt="explode"), make_job("good", [2]))
    run.run()
    assert [s.job_id for s in run.of(Started)] == ["bad", "good"]


def test_a_cancelled_job_is_forgotten_with_its_images_that_wait_for_a_slot() -> None:
    run = Run(FakeEngine(slots=1))

    def on_step(step: Step) -> None:
        if step == Step(0, (1,)):
            run.cancel("a")

    run.engine.on_step = on_step
    run.submit(make_job("a", [1, 2, 3]), make_job("b", [4]))
    run.run()
    assert [step.seeds for step in run.engine.steps] == [(1,)] + [(4,)] * 10
    assert [(s.job_id, s.image) for s in run.of(Started)] == [("a", 0), ("b", 0)]


def test_a_slot_is_said_to_be_free_before_its_image_is_decoded() -> None:
    run = Run()
    run.submit(make_job("a", [1, 2]))
    run.run()
    ends = [message for message in run.sent if isinstance(message, Freed | Painted)]
    assert [type(message) for message in ends] == [Freed, Freed, Painted, Painted]
    decode = next(
        i for i, m in enumerate(run.sent) if isinstance(m, Timing) and m.stage == "vae_decode"
    )
    assert run.sent.index(Freed("a", 0)) < decode


def test_an_image_is_begun_before_its_text_is_encoded() -> None:
    """A prompt that kills the process must not be given to the next one."""
    run = Run()
    run.submit(make_job("a"))
    run.run()
    assert isinstance(run.sent[0], Started)


def test_new_texts_do_not_hold_up_those_under_way_for_more_than_one_encoding() -> None:
    run = Run()
    encoded: list[int] = []

    def on_step(step: Step) -> None:
        if len(run.engine.steps) == 5:
            run.submit(*(make_job(f"late{i}", [10 + i], prompt=f"prompt {i}") for i in range(3)))
            run.submit(make_job("same", [20]))
        encoded.append(len(run.engine.encoded))

    run.engine.on_step = on_step
    run.submit(make_job("early", [1]))
    run.run()
    assert encoded[4:9] == [1, 2, 3, 4, 4]
    assert len(run.of(Painted)) == 5


def test_previews_do_not_hold_up_others_for_more_than_one_decoding() -> None:
    run = Run()
    run.submit(make_job("a", [1, 2, 3, 4], partial_images=3), make_job("b", [5]))
    run.run()
    stages = [m.stage for m in run.sent if isinstance(m, Timing) and m.stage != "text_encode"]
    kinds = [stage.replace("preview", "vae") for stage in stages]
    assert "vae_decode vae_decode" not in " ".join(kinds[:-1])
    previews = run.of(Preview)
    assert 3 <= len(previews) < 12
    assert all(p.pixels == paint(p.image + 1, p.pixels.data[2] // 20) for p in previews)
    for image in range(4):
        indices = [p.index for p in previews if p.image == image]
        assert indices == sorted(set(indices))
    assert len(run.of(Painted)) == 5
    assert not run.of(Failed), "a preview was still due when its image was done"


def test_previews_that_hold_up_nobody_are_all_decoded() -> None:
    run = Run()
    run.submit(make_job("a", [1, 2], partial_images=3), make_job("b", [3, 4], partial_images=3))
    run.run()
    assert Counter((p.job_id, p.index) for p in run.of(Preview)) == {
        (j, i): 2 for j in "ab" for i in range(3)
    }


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.integers(1, 6),
        st.sampled_from(["fine", "explode", "cancel"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(EVENTS)
def test_every_job_has_exactly_one_outcome(events: Sequence[tuple[int, int, str]]) -> None:
    """Arrivals, failures and cancellations at random steps: nothing is lost and no slot leaks."""
    time = [0.0]
    run = Run(FakeEngine(slots=4), clock=lambda: time[0])
    jobs: dict[str, Job] = {}
    pending = sorted(events)
    cancelled: set[str] = set()

    def arrive() -> None:
        while pending and pending[0][0] <= time[0]:
            _, images, kind = pending.pop(0)
            name = f"job{len(jobs)}"
            prompt = "explode" if kind == "explode" else "fine"
            jobs[name] = make_job(name, range(images), prompt=prompt)
            run.submit(jobs[name])
            if kind == "cancel" and len(run._unpainted) > 1:
                cancelled.add(name)
                run.cancel(name)

    def on_step(step: Step) -> None:
        time[0] += 1.0
        arrive()

    run.engine.on_step = on_step
    time[0] = float(pending[0][0])
    arrive()
    run.run()
    painted = Counter(p.job_id for p in run.of(Painted))
    failed = Counter(f.job_id for f in run.of(Failed))
    for name, job in jobs.items():
        complete = painted[name] == len(job.seeds)
        assert complete + failed[name] + (name in cancelled) == 1, name
    assert run.engine.free_slots == 4
