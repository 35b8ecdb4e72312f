"""How much of a scene a model says, scale by scale."""

from __future__ import annotations

import torch

from star_model.config import ModelConfig, TextEncoderConfig, TokenizerConfig, TransformerConfig
from star_model.vqvae import VQVAE
from training.likelihood import UnseenScenes
from training.train_transformer import Trainer, TransformerRecipe

CONFIG = ModelConfig(
    name="test",
    patch_nums=(1, 2, 4),
    transformer=TransformerConfig(depth=1, num_heads=1, text_dim=16, rope_norm=4.0),
    tokenizer=TokenizerConfig(
        vocab_size=32,
        latent_channels=4,
        base_channels=8,
        channel_multipliers=(1, 2),
        num_groups=1,
        attention=False,
    ),
    text_encoder=TextEncoderConfig(family="sentence", max_tokens=6),
)


def trainer() -> Trainer:
    torch.manual_seed(0)
    vqvae = VQVAE(CONFIG.tokenizer, CONFIG.schedule).eval().requires_grad_(False)
    torch.nn.init.normal_(vqvae.quantizer.codebook.weight)
    return Trainer(CONFIG, TransformerRecipe(), vqvae, torch.device("cpu"))


def scenes(t: Trainer, count: int = 20) -> UnseenScenes:
    """More than one part of 16, so that the parts are put together in their order."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(count, 4, 4, 4, generator=generator)
    tokens = torch.cat(t.quantizer.encode(features), dim=1)
    text = torch.randn(count, 6, 16), torch.full((count,), 6), torch.randn(count, 16)
    return UnseenScenes(tokens, text)


def test_the_last_scales_tokens_say_all_that_is_left() -> None:
    t = trainer()
    t.quantizer.phi.requires_grad_(False)
    for phi in t.quantizer.phi:
        torch.nn.init.dirac_(phi.get_parameter("conv.weight"))
        torch.nn.init.zeros_(phi.get_parameter("conv.bias"))
    *coarse, last = scenes(t).said(t)
    assert last.by_tokens > 0.999  # phi is the identity: what they add is what was missing
    assert all(0 < part.by_tokens < 0.99 for part in coarse)
    assert all(part.energy > 0 for part in (*coarse, last))


def test_a_model_that_knows_the_tokens_says_what_they_say() -> None:
    t = trainer()
    given = scenes(t)
    before = given.said(t)
    # An untrained model's logits are nearly flat, so it says the mean of the codebook: next to nothing.
    assert all(part.by_model < 0.2 for part in before)
    known = iter(torch.split(given.tokens, 16))

    def foresees(*_: object, **__: object) -> torch.Tensor:
        return torch.nn.functional.one_hot(next(known), 32).float() * 1e4

    t.model.forward = foresees  # type: ignore[method-assign]
    for part in given.said(t):
        assert abs(part.by_model - part.by_tokens) < 1e-5
