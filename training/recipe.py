"""The default model, ``star-mini``: its architecture, chosen for a laptop, in one place; and recipes as flags."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from typing import TypeVar

from star_model.config import (
    ModelConfig,
    PatchTokenizerConfig,
    TextEncoderConfig,
    TransformerConfig,
)
from star_model.sampling import Sampling

PATCH_NUMS = (1, 2, 4, 8, 16, 16, 16)
"""853 tokens for 512 pixels; a token of the finest maps stands for 32 x 32 pixels.

Each side divides 16, so that a token does not depend on where between cells a drawing lies. The later maps of 16 x 16
encode what the first leaves.
"""

TOKENIZER = PatchTokenizerConfig(vocab_size=4096, latent_channels=16)

TEXT_ENCODER = TextEncoderConfig(family="sentence", max_tokens=64)

MODEL = ModelConfig(
    name="star-mini",
    patch_nums=PATCH_NUMS,
    transformer=TransformerConfig(
        depth=8, num_heads=7, text_dim=384, rope_norm=16.0, place_features=True
    ),
    tokenizer=TOKENIZER,
    text_encoder=TEXT_ENCODER,
    sampling=Sampling(guidance_scale=1.0, top_k=600, top_p=0.6, smooth_scales=4),
)

SMALL = replace(
    MODEL,
    name="star-small",
    patch_nums=(1, 2, 4, 8, 8, 8, 8),
    transformer=TransformerConfig(
        depth=4, num_heads=4, text_dim=384, rope_norm=8.0, place_features=True
    ),
    tokenizer=PatchTokenizerConfig(
        vocab_size=1024,
        latent_channels=16,
        patch_size=64,
        width=192,
        encoder_blocks=2,
        decoder_blocks=3,
        num_heads=3,
        refine_channels=48,
    ),
)
"""For pictures of one's own and ten minutes of two cores: a token stands for 64 x 64 pixels, 277 tokens for 512 pixels.

It has as many scales as the default model, so both have the same recipe.
"""

SIZES = {"mini": MODEL, "small": SMALL}

Recipe = TypeVar("Recipe")
"""A dataclass of numbers and words, each with a default."""


def add_size_flag(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the flag ``--size``, a key of :data:`SIZES`."""
    parser.add_argument(
        "--size",
        choices=tuple(SIZES),
        default="mini",
        help="of the networks: mini is the default model's, small trains many times faster",
    )


def add_flags(parser: argparse.ArgumentParser, recipe: type[Recipe]) -> None:
    """Give ``parser`` a flag for each field of ``recipe``."""
    for field in fields(recipe):  # type: ignore[arg-type]
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            help=" ",
        )


def from_flags(arguments: argparse.Namespace, recipe: type[Recipe]) -> Recipe:
    """The ``recipe`` that the flags of :func:`add_flags` say."""
    return recipe(**{f.name: getattr(arguments, f.name) for f in fields(recipe)})  # type: ignore[arg-type]
