"""How much of a scene a model says, scale by scale."""

from __future__ import annotations

import torch

from tests.pure.training import test_training
from tests.pure.training.test_training import CONFIG
from training.likelihood import UnseenScenes
from training.transformer_trainer import Trainer


def trainer() -> Trainer:
    """With a codebook that features of unit variance fall on."""
    t = test_training.trainer()
    codebook = t.quantizer.codebook.weight
    torch.nn.init.normal_(codebook)
    codebook.data -= codebook.mean(0)  # so that a model that foresees nothing says nothing
    return t


def scenes(t: Trainer, count: int = 20) -> UnseenScenes:
    """More than one part of 16, so that the parts are put together in their order."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(count, 4, 4, 4, generator=generator)
    tokens = torch.cat(t.quantizer.encode(features), dim=1)
    width = CONFIG.transformer.text_dim
    text = torch.randn(count, 6, width), torch.full((count,), 6), torch.randn(count, width)
    return UnseenScenes(tokens, text)


def test_the_last_scales_tokens_say_all_that_is_left() -> None:
    t = trainer()
    for phi in t.quantizer.phi:
        torch.nn.init.dirac_(phi.get_parameter("conv.weight"))
        torch.nn.init.zeros_(phi.get_parameter("conv.bias"))
    *coarse, last = scenes(t).said(t)
    assert last.by_tokens > 0.999  # phi is the identity: what they add is what was missing
    assert all(part.by_tokens < 0.99 for part in coarse)
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
