"""The plain loop and the engine compute the same: every optimisation of the engine is lossless."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from benchmarks.plain import PlainLoop
from benchmarks.workload import paint, prepare
from star_model.engine.engine import Engine, Mode
from star_model.sampling import Sampling
from tests.star_model.tiny import build_tiny_model, tiny_config

SAMPLINGS = [
    Sampling(),
    Sampling(top_k=5, top_p=1.0),
    Sampling(guidance_scale=0.0, top_k=0, top_p=1.0),
    Sampling(guidance_scale=20.0, top_k=0, top_p=0.5),
    Sampling(top_k=1),
    Sampling(smooth_scales=2),
    Sampling(top_k=0, top_p=1.0, smooth_scales=4),
]
SEEDS = range(1, 8)
PROMPTS = ["a cat", "a red apple on a table", "", "moon", "a green frog", "a ship", "two moons"]


@pytest.mark.parametrize("rows", ["own", "conditional"])
@pytest.mark.parametrize("mode", ["deterministic", "fast"])
def test_the_engine_gives_the_tokens_of_the_plain_loop(
    rows: Literal["own", "conditional"], mode: Mode
) -> None:
    config = tiny_config()
    config = replace(
        config, transformer=replace(config.transformer, cross_attention_rows=rows, num_heads=2)
    )
    assert config.transformer.width == 2 * config.transformer.head_dim
    model = build_tiny_model(config)
    expected, images = PlainLoop(model).generate(PROMPTS, SAMPLINGS, SEEDS)
    engine = Engine(model, slots=len(SAMPLINGS), mode=mode)
    texts = model.text_encoder.encode(PROMPTS)
    sequences = [
        engine.prepare(text, sampling, seed=seed)
        for text, sampling, seed in zip(texts, SAMPLINGS, SEEDS, strict=True)
    ]
    paint(engine, sequences)
    for i, sequence in enumerate(sequences):
        assert (
            torch.cat(sequence.tokens).tolist()
            == torch.cat([scale[i] for scale in expected]).tolist()
        )
    difference = engine.finish(sequences).int() - images.int()
    assert difference.abs().max() <= 1, "a level of rounding"
    assert images.float().std() > 1


def test_prepare_takes_texts_in_turn() -> None:
    model = build_tiny_model()
    engine = Engine(model, slots=3)
    sequences = prepare(engine, model.text_encoder.encode(["a", "b"]), [7, 8, 9])
    assert [s.seed for s in sequences] == [7, 8, 9]
    assert torch.equal(engine.cache.text[:, :, 0], engine.cache.text[:, :, 2])
    assert not torch.equal(engine.cache.text[:, :, 0], engine.cache.text[:, :, 1])
