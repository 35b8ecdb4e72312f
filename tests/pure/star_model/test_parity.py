"""Whole models against what the published code computes: convert, load, generate, compare."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from star_model.engine.engine import Engine, Mode
from star_model.engine.sequence import ImageSequence
from star_model.model import StarModel
from star_model.networks.text_encoder import ClassConditioning, TextConditioning
from tests.star_model.golden import Golden


def generate(recorded: Golden, engine: Engine, prompts: list[str]) -> list[ImageSequence]:
    """One image for each prompt, all of them in step."""
    conditionings = engine.model.text_encoder.encode(prompts)
    sequences = [
        engine.prepare(c, recorded.sampling, seed=seed) for seed, c in enumerate(conditionings)
    ]
    while not sequences[0].done:
        engine.step(sequences)
    return sequences


@pytest.fixture(scope="session")
def alone(recorded: Golden, recorded_model: StarModel) -> Callable[[str], list[int]]:
    """The tokens of a prompt's image in an engine of its own."""

    @cache
    def tokens(prompt: str) -> list[int]:
        (sequence,) = generate(recorded, Engine(recorded_model, slots=1), [prompt])
        return tokens_of(sequence)

    return tokens


def tokens_of(sequence: ImageSequence) -> list[int]:
    tokens: list[int] = torch.cat(sequence.tokens).tolist()
    return tokens


def assert_golden(recorded: Golden, tokens: list[Tensor]) -> None:
    assert len(tokens) == len(recorded.config.schedule)
    for scale, found in enumerate(tokens):
        assert found.tolist() == recorded.tokens("generate", scale)[0], f"scale {scale}"


def test_generate(recorded: Golden, recorded_model: StarModel) -> None:
    engine = Engine(recorded_model, slots=1)
    (sequence,) = generate(recorded, engine, [recorded.prompt])
    assert_golden(recorded, sequence.tokens)
    pixels = engine.finish([sequence])[0].permute(2, 0, 1) / 255
    image = recorded.tensors["generate.image"].float()
    torch.testing.assert_close(pixels, image[0], atol=2e-3 + 0.5 / 255, rtol=0)
    decoded = (recorded_model.decode(sequence.f_hat[None]) + 1) / 2
    torch.testing.assert_close(decoded, image, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("mode", "place"), [("deterministic", 0), ("deterministic", 3), ("fast", 2)]
)
def test_generate_in_a_batch(
    recorded: Golden,
    recorded_model: StarModel,
    alone: Callable[[str], list[int]],
    mode: Mode,
    place: int,
) -> None:
    prompts = recorded.other_prompts
    prompts.insert(place, recorded.prompt)
    engine = Engine(recorded_model, slots=4, mode=mode)
    sequences = generate(recorded, engine, prompts)
    assert_golden(recorded, sequences[place].tokens)
    together = [tokens_of(sequence) for sequence in sequences]
    assert together == [alone(prompt) for prompt in prompts]
    assert len({tuple(tokens) for tokens in together}) == 4


@torch.inference_mode()
def test_tokenizer(recorded: Golden, recorded_model: StarModel) -> None:
    vqvae, expected = recorded_model.vqvae, recorded.tensors
    tokens = vqvae.encode(expected["vae.image"].float())
    for scale, found in enumerate(tokens):
        assert found.tolist() == recorded.tokens("vae", scale), f"scale {scale}"
    reconstruction = vqvae.decode_tokens(tokens)
    torch.testing.assert_close(
        reconstruction, expected["vae.reconstruction"].float(), atol=2e-3, rtol=0
    )
    f_hats, means = list(vqvae.quantizer.f_hats(tokens)), expected["vae.coarse_mean"]
    for scale in (0, len(f_hats) // 2, len(f_hats) - 1):
        preview = vqvae.decode(f_hats[scale]).mean((2, 3))
        torch.testing.assert_close(preview, means[scale], atol=1e-4, rtol=0)
    given = vqvae.quantizer.teacher_forcing_input([t[:1] for t in tokens])
    torch.testing.assert_close(given, expected["vae.next_scale_input"], atol=1e-4, rtol=0)


class WholeSequence:
    """The keys and values of one pass over all scales: nothing is cached."""

    def __init__(self, text: TextConditioning | None, model: StarModel) -> None:
        if text is not None:
            self.keys_values = model.transformer.text_keys_values(text.hidden[None])
            self.text_mask = text.mask[None, None, None, :]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v

    def text(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.keys_values[layer, 0], self.keys_values[layer, 1]

    text_mask: Tensor


@torch.inference_mode()
def test_teacher_forcing(recorded: Golden, recorded_model: StarModel) -> None:
    transformer, schedule = recorded_model.transformer, recorded_model.config.schedule
    (conditioning,) = recorded_model.text_encoder.encode([recorded.prompt])
    if isinstance(conditioning, ClassConditioning):
        context = WholeSequence(None, recorded_model)
        condition = torch.tensor([conditioning.class_id])
    else:
        context = WholeSequence(conditioning, recorded_model)
        condition = conditioning.pooled[None]
        if recorded.is_infinity:
            condition = transformer.text_refiner.pooled(conditioning.hidden)[None]
    adaptive = transformer.config.modulation_vectors > 0
    modulation = transformer.modulation(condition) if adaptive else None
    given = torch.split(recorded.tensors["vae.next_scale_input"], list(schedule.lengths[1:]), dim=1)
    parts = [transformer.embed_start(condition)]
    parts += [transformer.embed_scale(part, scale) for scale, part in enumerate(given, start=1)]
    rope = None if recorded.is_var else transformer.rope
    logits = transformer(torch.cat(parts, dim=1), rope, context, recorded.visible, modulation)
    torch.testing.assert_close(
        logits, recorded.tensors["teacher_forcing.logits"], atol=1e-4, rtol=0
    )
