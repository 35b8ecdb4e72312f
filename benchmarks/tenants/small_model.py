"""A small model of random weights, for measurements of what stands around the engine."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.workload import random_model
from star_model.checkpoints.saving import save_model
from star_model.config import ModelConfig, TextEncoderConfig, TokenizerConfig, TransformerConfig

CLASSES = 10


def small_config(name: str) -> ModelConfig:
    """A class-conditional model of 32 x 32 pixels and four scales, some ten milliseconds an image."""
    return ModelConfig(
        name=name,
        patch_nums=(1, 2, 3, 4),
        transformer=TransformerConfig(
            depth=2, num_heads=2, num_classes=CLASSES, positions="absolute", adaptive_norm="block"
        ),
        tokenizer=TokenizerConfig(
            vocab_size=256,
            latent_channels=8,
            base_channels=16,
            channel_multipliers=(1, 2),
            num_res_blocks=1,
            num_groups=4,
            patch_size=4,
        ),
        text_encoder=TextEncoderConfig(family="imagenet", max_tokens=0),
    )


def write_small_model(directory: Path, name: str, seed: int) -> Path:
    """Write a native model directory; returns it.

    Args:
        directory: must not exist, or be empty.
        name: of the model in requests.
        seed: of the weights; another one paints other images.
    """
    model = random_model(small_config(name), torch.device("cpu"))
    chance = torch.Generator().manual_seed(seed)
    for network in (model.transformer, model.vqvae):
        for weights in network.parameters():
            if weights.dim() > 1:  # biases and norms stay as they are
                weights.normal_(0, weights[0].numel() ** -0.5, generator=chance)
    save_model(model, directory)
    return directory
