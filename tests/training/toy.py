"""The whole training at toy size: every step in this process, for a second or two."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from star_model import Sampling
from star_model.config import (
    ModelConfig,
    PatchTokenizerConfig,
    TextEncoderConfig,
    TransformerConfig,
)
from training import train, train_decoder, train_transformer
from training.recipe import SIZES
from training.transformer_trainer import Stage, TransformerRecipe

TOY = ModelConfig(
    name="toy",
    patch_nums=(1, 2, 4, 4),
    transformer=TransformerConfig(
        depth=1, num_heads=1, text_dim=16, rope_norm=4.0, place_features=True
    ),
    tokenizer=PatchTokenizerConfig(
        vocab_size=32,
        latent_channels=4,
        patch_size=128,
        width=16,
        encoder_blocks=1,
        decoder_blocks=1,
        num_heads=1,
        refine_scale=4,
        refine_channels=8,
        refine_blocks=1,
    ),
    text_encoder=TextEncoderConfig(family="sentence", max_tokens=64),
    sampling=Sampling(guidance_scale=1.0, top_k=8, top_p=0.6, smooth_scales=3),
)


def at_toy_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all steps run in this process, with networks and stages that take a second or two."""

    def in_this_process(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", command[2:])
        importlib.import_module(command[2]).main()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(train, "subprocess", SimpleNamespace(run=in_this_process))
    monkeypatch.setattr(shutil, "which", lambda _: None)  # nothing is compiled
    for size in SIZES:
        monkeypatch.setitem(SIZES, size, TOY)
    monkeypatch.setattr(train_decoder, "PAINTED_AT_ONCE", 2)
    stages = (
        Stage(2, 1, 4, whole=2, share=0.4),
        Stage(4, 1, 4, kept=8, whole=2, share=0.6),
    )
    recipe = TransformerRecipe(stages=stages)
    monkeypatch.setattr(train_transformer, "TransformerRecipe", lambda: recipe)
