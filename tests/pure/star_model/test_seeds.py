"""A seed is a promise: the same prompt, parameters and seed give the same tokens in any company."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from star_model.engine.engine import Engine
from star_model.engine.sequence import ImageSequence
from star_model.model import StarModel
from star_model.sampling import Sampling
from tests.star_model.tiny import FAMILIES, build_tiny_model, tiny_config


@dataclass(frozen=True)
class Job:
    """One image to be made."""

    prompt: str
    sampling: Sampling
    seed: int


JOBS = [
    Job("a red apple", Sampling(), 7),
    Job("a red apple", Sampling(smooth_scales=9), 8),
    Job("a cat", Sampling(top_k=5, top_p=1.0, smooth_scales=2), 7),
    Job("", Sampling(guidance_scale=0.0), 2**32 - 1),
    Job("a cat on a mat", Sampling(guidance_scale=100.0, top_k=0, top_p=0.5), 0),
    Job("moon", Sampling(top_k=1), 3),
    Job("two moons", Sampling(top_p=0.0), 4),
    Job("a green frog", Sampling(top_k=0, top_p=1.0), 5),
    Job("a red apple", Sampling(mixed_scales=3, unguided_scales=1, unguided_temperature=0.5), 7),
    Job("a red apple", Sampling(mixed_scales=9, guidance_from=2, smooth_scales=1), 7),
]

PROMPTS = list(dict.fromkeys(job.prompt for job in JOBS))


def prepare(engine: Engine, job: Job) -> ImageSequence:
    (text,) = engine.model.text_encoder.encode([prompt_for(engine.model, job)])
    return engine.prepare(text, job.sampling, seed=job.seed)


def prompt_for(model: StarModel, job: Job) -> str:
    """The prompt of ``job``, or a class instead."""
    by_class = model.config.transformer.num_classes > 0
    return str(PROMPTS.index(job.prompt)) if by_class else job.prompt


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
def model(family: str = "star") -> StarModel:
    return build_tiny_model(tiny_config(**FAMILIES[family]))


@cache
def alone(job: Job, family: str = "star") -> list[int]:
    """The tokens of ``job`` in an engine of its own."""
    return paint(Engine(model(family), slots=1), [job])[0]


every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
@pytest.mark.parametrize("shift", [0, 5])
def test_any_position_in_a_batch_of_10(shift: int, family: str) -> None:
    jobs = JOBS[shift:] + JOBS[:shift]
    expected = [alone(job, family) for job in jobs]
    assert paint(Engine(model(family), slots=10), jobs) == expected


@every_family
def test_order_of_a_step_does_not_matter(family: str) -> None:
    engine = Engine(model(family), slots=10)
    sequences = [prepare(engine, job) for job in JOBS]
    for scale in range(engine.num_scales):
        engine.step(sequences[scale:] + sequences[:scale])
    assert [tokens_of(s) for s in sequences] == [alone(job, family) for job in JOBS]


@settings(max_examples=settings().max_examples // 5)
@given(
    joins=st.lists(st.integers(0, 6), min_size=10, max_size=10),
    finest_first=st.booleans(),
    family=st.sampled_from(list(FAMILIES)),
)
def test_joining_while_others_are_at_a_later_scale(
    joins: list[int], finest_first: bool, family: str
) -> None:
    engine = Engine(model(family), slots=10)
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
    assert [done[i] for i in range(10)] == [alone(job, family) for job in JOBS]


@every_family
def test_different_seeds_differ(family: str) -> None:
    jobs = [Job("a red apple", Sampling(), seed) for seed in range(8)]
    assert len({tuple(alone(job, family)) for job in jobs}) == 8


def test_the_noise_of_a_mixture_differs_by_seed() -> None:
    jobs = [Job("a red apple", Sampling(mixed_scales=4), seed) for seed in range(4)]
    assert len({tuple(alone(job)) for job in jobs}) == 4


def test_different_prompts_differ() -> None:
    assert len({tuple(alone(Job(prompt, Sampling(), 1))) for prompt in ("", "a", "b", "a b")}) == 4


@every_family
def test_fast_mode_agrees_nearly_always(family: str) -> None:
    changes: list[dict[str, float]] = [{}, {"mixed_scales": 3}, {"guidance_from": 2}]
    jobs = [
        Job(PROMPTS[i % len(PROMPTS)], Sampling().changed(changes[i % 3]), i) for i in range(24)
    ]
    engine = Engine(model(family), slots=8, mode="fast")
    together = [tokens for i in range(0, 24, 8) for tokens in paint(engine, jobs[i : i + 8])]
    agree = sum(tokens == alone(job, family) for tokens, job in zip(together, jobs, strict=True))
    assert agree >= 23


@every_family
def test_a_seed_survives_a_new_engine_and_other_slots(family: str) -> None:
    engine = Engine(model(family), slots=4)
    occupied = [prepare(engine, job) for job in JOBS[1:4]]
    assert paint(engine, [JOBS[0]]) == [alone(JOBS[0], family)]
    assert [s.slot for s in occupied] == [0, 1, 2]
