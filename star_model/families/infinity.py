"""Infinity (arXiv 2412.04431): text-conditional, bits instead of tokens, fifteen shapes of images.

A published model is the transformer (a bare ``.pth`` for 2B, a folder of safetensors shards for 8B), the tokenizer's
``.pth`` (``{"vae": state dict}``) and the repository of a T5 model, of which the encoder is used.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from star_model.config import (
    BitTokenizerConfig,
    ModelConfig,
    TextEncoderConfig,
    TransformerConfig,
)
from star_model.families import var
from star_model.families.family import Family, HubFile, Names, PublishedNetwork, names_in_blocks
from star_model.sampling import Sampling
from star_model.scales import Size

REPOSITORY = "FoundationVision/Infinity"

_PORTRAIT = {
    "1.250": "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
    "1.333": "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    "1.500": "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    "1.750": "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    "2.000": "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
    "2.500": "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    "3.000": "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
}
"""Height and width of each token map, by the ratio of height to width."""

SQUARE = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
"""Sides of the token maps of a square image of a million pixels."""


def _parse(text: str) -> tuple[Size, ...]:
    pairs = (size.split("x") for size in text.split())
    return tuple((int(height), int(width)) for height, width in pairs)


PORTRAIT = {ratio: _parse(text) for ratio, text in _PORTRAIT.items()}
LANDSCAPE = {
    ratio: tuple((width, height) for height, width in sizes) for ratio, sizes in PORTRAIT.items()
}
"""The same with height and width swapped."""

SHAPES = (*PORTRAIT.values(), *LANDSCAPE.values())
"""The fourteen shapes beside the square one."""


def transformer_config(
    depth: int, num_heads: int, *, text_dim: int = 2048, head_dim: int = 128
) -> TransformerConfig:
    """The published transformer with ``depth`` blocks."""
    width = num_heads * head_dim
    return TransformerConfig(
        depth=depth,
        num_heads=num_heads,
        head_dim=head_dim,
        text_dim=text_dim,
        positions="rope_grid",
        adaptive_norm="shared",
        cross_attention_norm="affine",
        cross_qk_norm="none",
        refiner_heads=text_dim // (64 if width > 4096 else 128),
        scale_embeddings=15,
    )


def model_config(
    name: str,
    transformer: TransformerConfig,
    tokenizer: BitTokenizerConfig,
    *,
    scales: int = len(SQUARE),
    shapes: tuple[tuple[Size, ...], ...] = SHAPES,
    sampling: Sampling | None = None,
) -> ModelConfig:
    """A model of this family that runs the first ``scales`` of the published schedules.

    However few it runs, positions are on the grid of the whole schedule.
    """
    return ModelConfig(
        name=name,
        patch_nums=SQUARE[:scales],
        transformer=transformer,
        tokenizer=tokenizer,
        text_encoder=TextEncoderConfig(family="t5", max_tokens=512),
        sampling=sampling or Sampling(guidance_scale=3.0, top_k=900, top_p=0.97),
        guidance="constant",
        other_shapes=tuple(sizes[:scales] for sizes in shapes),
        rope_grids=((SQUARE[-1], SQUARE[-1]), *(sizes[-1] for sizes in shapes)),
    )


BITS_32 = BitTokenizerConfig()
BITS_14 = BitTokenizerConfig(latent_channels=14, token_patch=2, channel_multipliers=(1, 2, 4, 4))
"""A latent of twice the resolution, of which a token is a square of four positions."""

SAMPLING_2B = Sampling(guidance_scale=3.0, top_k=900, top_p=0.97, temperature=0.5)
SAMPLING_8B = Sampling(guidance_scale=3.0, top_k=900, top_p=0.97)
"""The defaults of the published notebooks."""


def _canonical(names: Collection[str]) -> dict[str, str]:
    """Number the blocks of all chunks together: ``block_chunks.1.module.0.`` as ``blocks.4.`` if a chunk has four."""
    pattern = re.compile(r"block_chunks\.(\d+)\.module\.(\d+)\.")
    places = {name: m for name in names if (m := pattern.match(name))}
    size = 1 + max((int(m[2]) for m in places.values()), default=0)
    numbered = {
        name: f"blocks.{int(m[1]) * size + int(m[2])}.{name[m.end() :]}"
        for name, m in places.items()
    }
    return {name: numbered.get(name, name) for name in names}


_NAMES: Names = {
    **var.COMMON_NAMES,
    "text_refiner.norm.weight": "text_norm.weight",
    "text_refiner.pooling.query": "text_proj_for_sos.ca.mat_q",
    "text_refiner.pooling.kv.weight": "text_proj_for_sos.ca.mat_kv.weight",
    "text_refiner.pooling.kv.bias": (None, "text_proj_for_sos.ca.v_bias"),
    "text_refiner.pooling.proj.weight": "text_proj_for_sos.ca.proj.weight",
    "text_refiner.pooling.proj.bias": "text_proj_for_sos.ca.proj.bias",
    "text_refiner.fc1.weight": "text_proj_for_ca.0.weight",
    "text_refiner.fc1.bias": "text_proj_for_ca.0.bias",
    "text_refiner.fc2.weight": "text_proj_for_ca.2.weight",
    "text_refiner.fc2.bias": "text_proj_for_ca.2.bias",
    "text_refiner.unconditional": "cfg_uncond",
    "shared_modulation.weight": "shared_ada_lin.1.weight",
    "shared_modulation.bias": "shared_ada_lin.1.bias",
    "head_modulation.weight": "head_nm.ada_lin.1.weight",
    "head_modulation.bias": "head_nm.ada_lin.1.bias",
    "head.weight": "head.weight",
    "head.bias": "head.bias",
}

_BLOCK: Names = {
    "self_attention.log_temperature": "sa.scale_mul_1H11",
    "self_attention.qkv.weight": "sa.mat_qkv.weight",
    "self_attention.qkv.bias": ("sa.q_bias", None, "sa.v_bias"),
    "self_attention.proj.weight": "sa.proj.weight",
    "self_attention.proj.bias": "sa.proj.bias",
    "cross_attention.q.weight": "ca.mat_q.weight",
    "cross_attention.q.bias": "ca.mat_q.bias",
    "cross_attention.kv.weight": "ca.mat_kv.weight",
    "cross_attention.kv.bias": (None, "ca.v_bias"),
    "cross_attention.proj.weight": "ca.proj.weight",
    "cross_attention.proj.bias": "ca.proj.bias",
    "cross_attention_norm.norm.weight": "ca_norm.weight",
    "cross_attention_norm.norm.bias": "ca_norm.bias",
    "feed_forward.fc1.weight": "ffn.fc1.weight",
    "feed_forward.fc1.bias": "ffn.fc1.bias",
    "feed_forward.fc2.weight": "ffn.fc2.weight",
    "feed_forward.fc2.bias": "ffn.fc2.bias",
    "modulation_offset": "ada_gss",
}

TRANSFORMER = PublishedNetwork(
    title="an Infinity transformer",
    names=lambda config: {**_NAMES, **names_in_blocks(_BLOCK, config.transformer.depth)},
    markers=frozenset({"text_proj_for_sos.ca.mat_q", "cfg_uncond"}),
    buffers=re.compile(
        r".*\.zero_k_bias"
        r"|lvl_1L|attn_bias_for_masking|Infinity_visible_kvlen|Infinity_invisible_qlen"  # of training
    ),
    zeros=re.compile(r".*\.zero_k_bias"),
    shapes={
        "pos_start": lambda native: (1, 1, *native),
        "mat_q": lambda native: (1, *native),
        "ada_gss": lambda native: (1, 1, *native),
        "scale_mul_1H11": lambda native: (1, native[0], 1, 1),
    },
    # As it is saved where flash-attention is installed.
    other_shapes={"scale_mul_1H11": lambda native: (1, 1, native[0], 1)},
    canonical=_canonical,
)


def _canonical_vqvae(names: Collection[str]) -> dict[str, str]:
    """Leave out the module in which each convolution and norm is wrapped: ``X.conv.weight`` is ``X.weight``.

    The published code loads files of both forms.
    """
    if "decoder.conv_in.conv.weight" not in names:
        return {name: name for name in names}
    return {name: re.sub(r"\.(conv|norm)\.(weight|bias)$", r".\2", name) for name in names}


VQVAE = PublishedNetwork(
    title="the image tokenizer of an Infinity",
    names=lambda config: var.autoencoder_names(config.tokenizer),
    markers=frozenset({"decoder.conv_in.conv.weight", "quantizer.lfq.mask", "quantize.lfq.mask"}),
    buffers=re.compile(r"quantizer?\.lfq\.mask"),  # powers of two; one module under two names
    canonical=_canonical_vqvae,
)


def _shards(folder: str, count: int) -> HubFile:
    names = (f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1))
    return HubFile(REPOSITORY, folder, ("model.safetensors.index.json", *names))


FAMILY = Family(
    describes=lambda config: config.transformer.refiner_heads > 0,
    presets=(
        model_config("infinity-2b", transformer_config(32, 16), BITS_32, sampling=SAMPLING_2B),
        model_config("infinity-8b", transformer_config(40, 28), BITS_14, sampling=SAMPLING_8B),
        model_config(
            "infinity-8b-512",
            transformer_config(40, 28),
            BITS_14,
            scales=10,
            sampling=SAMPLING_8B,
        ),
    ),
    transformer=TRANSFORMER,
    vqvae=VQVAE,
    transformer_files={
        "infinity-2b": HubFile(REPOSITORY, "infinity_2b_reg.pth"),
        "infinity-8b": _shards("infinity_8b_weights", 4),
        "infinity-8b-512": _shards("infinity_8b_512x512_weights", 8),
    },
    vqvae_file=HubFile(REPOSITORY, "infinity_vae_d32reg.pth"),
    text_encoders=(
        HubFile(
            "google/flan-t5-xl",
            "",
            (
                "config.json",
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "tokenizer.json",
                "tokenizer_config.json",
                "special_tokens_map.json",
            ),
            folder="flan-t5-xl",
        ),
    ),
    license="MIT",
    other_vqvae_files=dict.fromkeys(
        ("infinity-8b", "infinity-8b-512"),
        HubFile(REPOSITORY, "infinity_vae_d56_f8_14_patchify.pth"),
    ),
)
