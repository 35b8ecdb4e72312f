"""A seed is a promise: the same prompt, parameters and seed give the same tokens in any company."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from star_model.engine.engine import Engine
from star_model.engine.sampling import SamplingParams
from star_model.engine.sequence import ImageSequence
from star_model.model import StarModel
from tests.star_model.tiny import build_tiny_model


@dataclass(frozen=True)
class Job:
    """One image to be made."""

    prompt: str
    params: SamplingParams


JOBS = [
    Job("a red apple", SamplingParams(seed=7)),
    Job("a red apple", SamplingParams(seed=8, smooth_scales=9)),
    Job("a cat", SamplingParams(seed=7, top_k=5, top_p=1.0, smooth_scales=2)),
    Job("", SamplingParams(seed=2**32 - 1, guidance_scale=0.0)),
    Job("a cat on a mat", SamplingParams(seed=0, guidance_scale=100.0, top_k=0, top_p=0.5)),
    Job("moon", SamplingParams(seed=3, top_k=1)),
    Job("two moons", SamplingParams(seed=4, top_p=0.0)),
    Job("a green frog", SamplingParams(seed=5, top_k=0, top_p=1.0)),
]


def prepare(engine: Engine, job: Job) -> ImageSequence:
    (text,) = engine.model.text_encoder.encode([job.prompt])
    return engine.prepare(text, job.params)


def paint(engine: Engine, jobs: list[Job]) -> list[list[int]]:
    """The tokens of each job, all of them stepping together."""
    sequences = [prepare(engine, job) for job in jobs]
    while not sequences[0].done:
        engine.step(sequences)
    engine.finish(sequences)
    return [tokens_of(sequence) for sequence in sequences]


def tokens_of(sequence: ImageSequence) -> list[int]:
    tokens: list[int] = torch.cat(sequence.tokens).tolist()
    return tokens


@cache
def model() -> StarModel:
    return build_tiny_model()


@cache
def alone(job: Job) -> list[int]:
    """The tokens of ``job`` in an engine of its own."""
    return paint(Engine(model(), slots=1), [job])[0]


@pytest.mark.parametrize("step_batch", [1, 3, 8])
@pytest.mark.parametrize("shift", range(8))
def test_any_position_in_a_batch_of_8(step_batch: int, shift: int) -> None:
    jobs = JOBS[shift:] + JOBS[:shift]
    engine = Engine(model(), slots=8, step_batch=step_batch)
    if step_batch == 1:
        assert paint(engine, jobs) == [alone(job) for job in jobs]
    else:  # another fixed shape may be another image, but always the same one
        assert paint(engine, jobs) == [paint(engine, [job])[0] for job in jobs]


def test_order_of_a_step_does_not_matter() -> None:
    engine = Engine(model(), slots=8, step_batch=4)
    sequences = [prepare(engine, job) for job in JOBS]
    for scale in range(engine.num_scales):
        engine.step(sequences[scale:] + sequences[:scale])
    assert [tokens_of(s) for s in sequences] == [alone(job) for job in JOBS]


@pytest.mark.parametrize("step_batch", [1, 4])
@settings(max_examples=30)
@given(joins=st.lists(st.integers(0, 6), min_size=8, max_size=8), finest_first=st.booleans())
def test_joining_while_others_are_at_a_later_scale(
    step_batch: int, joins: list[int], finest_first: bool
) -> None:
    engine = Engine(model(), slots=8, step_batch=step_batch)
    waiting = dict(enumerate(JOBS))
    running: dict[int, ImageSequence] = {}
    done: dict[int, list[int]] = {}
    tick = 0
    while waiting or running:
        for i in [i for i in waiting if joins[i] <= tick]:
            running[i] = prepare(engine, waiting.pop(i))
        tick += 1
        if not running:
            continue
        scales = [s.scale for s in running.values()]
        scale = max(scales) if finest_first else min(scales)
        engine.step([s for s in running.values() if s.scale == scale])
        for i in [i for i, s in running.items() if s.done]:
            done[i] = tokens_of(running[i])
            engine.finish([running.pop(i)])
    assert [done[i] for i in range(8)] == [alone(job) for job in JOBS]


def test_different_seeds_differ() -> None:
    jobs = [Job("a red apple", SamplingParams(seed=seed)) for seed in range(8)]
    assert len({tuple(alone(job)) for job in jobs}) == 8


def test_different_prompts_differ() -> None:
    params = SamplingParams(seed=1)
    assert len({tuple(alone(Job(prompt, params))) for prompt in ("", "a", "b", "a b")}) == 4


def test_fast_mode_agrees_nearly_always() -> None:
    jobs = [Job(f"prompt {i}", SamplingParams(seed=i)) for i in range(24)]
    engine = Engine(model(), slots=8, mode="fast")
    together = [tokens for i in range(0, 24, 8) for tokens in paint(engine, jobs[i : i + 8])]
    agree = sum(tokens == alone(job) for tokens, job in zip(together, jobs, strict=True))
    assert agree >= 23


def test_a_seed_survives_a_new_engine_and_other_slots() -> None:
    engine = Engine(model(), slots=4)
    occupied = [prepare(engine, job) for job in JOBS[1:4]]
    assert paint(engine, [JOBS[0]]) == [alone(JOBS[0])]
    assert [s.slot for s in occupied] == [0, 1, 2]
