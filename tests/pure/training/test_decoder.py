"""Sharpening the decoder: the tokens stay what they are, and what is compared is what is said to be."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from star_model.config import TokenizerConfig
from star_model.networks.vqvae import VQVAE
from star_model.scales import ScaleSchedule
from training.run import Run
from training.train_decoder import DecoderRecipe, DecoderTrainer, fidelity_loss, sharpness

CPU = torch.device("cpu")
CONFIG = TokenizerConfig(
    vocab_size=32,
    latent_channels=4,
    base_channels=8,
    channel_multipliers=(1, 2),
    num_groups=1,
    patch_size=4,
    attention=False,
)
RECIPE = DecoderRecipe(steps=4, warmup=1, matrix_lr=0.02, peak_lr=1e-3)


def tokenizer() -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(CONFIG, ScaleSchedule((1, 2, 4))).eval()


def images(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.rand(2, 3, 4, 4, generator=generator), scale_factor=8) * 2 - 1


def test_the_tokens_stay_and_the_picture_improves() -> None:
    before = tokenizer()
    recipe = DecoderRecipe(steps=12, warmup=1, matrix_lr=0.02, average=0.5)
    trainer = DecoderTrainer(copy.deepcopy(before), recipe, CPU)
    losses = [trainer.step(step, images(0)) for step in range(recipe.steps)]
    after = trainer.average
    for name, weight in before.state_dict().items():
        trained = name.startswith(("decoder.", "post_quant_conv."))
        assert torch.equal(weight, after.state_dict()[name]) != trained, name
    for old, new in zip(before.encode(images(1)), after.encode(images(1)), strict=True):
        assert torch.equal(old, new)
    assert losses[-1]["psnr"] > losses[0]["psnr"] + 0.5


def test_a_resumed_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    recipe = DecoderRecipe(steps=4, warmup=1)

    def go_on(directory: Path, until: int) -> DecoderTrainer:
        run, trainer = Run(directory, {}, 4), DecoderTrainer(tokenizer(), recipe, CPU)
        first = 0
        if state := run.resume():
            trainer.load(state)
            first = state["step"]
        for step in range(first, until):
            trainer.step(step, images(step))
        run.save(until, **trainer.state())
        return trainer

    whole = go_on(tmp_path / "whole", 4)
    go_on(tmp_path / "parts", 2)
    parts = go_on(tmp_path / "parts", 4)
    for name, weight in whole.average.state_dict().items():
        assert torch.equal(weight, parts.average.state_dict()[name]), name


def test_the_decoder_is_trained_on_what_the_tokens_say() -> None:
    trainer = DecoderTrainer(tokenizer(), RECIPE, CPU)
    *_, f_hat = trainer.tokenizer.quantizer.f_hats(trainer.tokenizer.encode(images(3)))
    latents = trainer.latents(images(3), [-1, -1])
    assert not latents.requires_grad
    # In bfloat16 a few tokens fall the other way.
    assert (latents - f_hat).abs().median() < 0.02 * f_hat.std()


def test_painted_latents_take_the_place_of_the_tokens() -> None:
    painted = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    trainer = DecoderTrainer(tokenizer(), RECIPE, CPU, painted)
    own = trainer.latents(images(3), [-1, -1])
    mixed = trainer.latents(images(3), [-1, 2])
    assert torch.equal(mixed[0], own[0])
    assert torch.equal(mixed[1], painted[2])


def test_a_decibel_counts_the_same_in_every_scene() -> None:
    target = torch.zeros(1, 3, 8, 8)
    easy, hard = torch.full_like(target, 0.01), torch.full_like(target, 0.4)
    gains = [fidelity_loss(e, target) - fidelity_loss(e / 2, target) for e in (easy, hard)]
    torch.testing.assert_close(gains[0], gains[1])
    edge = easy.clone()
    edge[..., 4:] *= -1  # the same squared error, but an edge where there is none
    assert fidelity_loss(edge, target) > fidelity_loss(easy, target)


def test_sharpness_falls_with_blur() -> None:
    noise = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert sharpness(noise, noise) == 1
    assert sharpness(F.avg_pool2d(noise, 3, 1, 1), noise) < 0.6
    flat = torch.zeros(3, 32, 32)
    flat[:, :, 16:] = 1.0
    noisy = flat + 0.05 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert sharpness(noisy, flat) == pytest.approx(1, abs=0.05)  # noise in flat areas is no edge
