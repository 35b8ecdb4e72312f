"""VAR (arXiv 2404.02905): class-conditional on ImageNet, and the image tokenizer that STAR uses too.

A published model is the transformer's ``.pth`` and the tokenizer's, each a bare state dict. The presets that end in
``cca`` are VARs tuned by others so that they need no guidance (arXiv 2410.09347), which halves the work; their files
are laid out like VAR's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from star_model.config import (
    IMAGENET_CLASSES,
    BitTokenizerConfig,
    ImageTokenizerConfig,
    ModelConfig,
    TextEncoderConfig,
    TokenizerConfig,
    TransformerConfig,
)
from star_model.errors import ConfigError
from star_model.families.family import Family, HubFile, Names, PublishedNetwork, names_in_blocks
from star_model.sampling import Sampling

REPOSITORY = "FoundationVision/var"
CCA_REPOSITORY = "ChenDRAG/CCA_VAR"

SAMPLING = Sampling(guidance_scale=4.0, top_k=900, top_p=0.95)
"""Of the published demo."""
CCA_SAMPLING = Sampling(guidance_scale=0.0, top_k=900, top_p=0.96)
"""Of the published evaluation."""

SIDES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
SIDES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)


def _preset(
    name: str,
    depth: int,
    patch_nums: tuple[int, ...],
    adaptive_norm: Literal["block", "shared"] = "block",
    sampling: Sampling = SAMPLING,
) -> ModelConfig:
    transformer = TransformerConfig(
        depth=depth,
        num_heads=depth,
        num_classes=IMAGENET_CLASSES,
        positions="absolute",
        adaptive_norm=adaptive_norm,
    )
    return ModelConfig(
        name=name,
        patch_nums=patch_nums,
        transformer=transformer,
        text_encoder=TextEncoderConfig(family="imagenet", max_tokens=0),
        sampling=sampling,
    )


COMMON_NAMES: Names = {
    "start_position": "pos_start",
    "token_projection.weight": "word_embed.weight",
    "token_projection.bias": "word_embed.bias",
    "scale_embedding.weight": "lvl_embed.weight",
}
"""Outside the blocks, shared with STAR."""

COMMON_BLOCK: Names = {
    "self_attention.log_temperature": "attn.scale_mul_1H11",
    "self_attention.qkv.weight": "attn.mat_qkv.weight",
    # There is no bias for keys in the published code, only a buffer of zeros in its place: None.
    "self_attention.qkv.bias": ("attn.q_bias", None, "attn.v_bias"),
    "self_attention.proj.weight": "attn.proj.weight",
    "self_attention.proj.bias": "attn.proj.bias",
    "feed_forward.fc1.weight": "ffn.fc1.weight",
    "feed_forward.fc1.bias": "ffn.fc1.bias",
    "feed_forward.fc2.weight": "ffn.fc2.weight",
    "feed_forward.fc2.bias": "ffn.fc2.bias",
}
"""In a block, shared with STAR."""

_NAMES: Names = {
    **COMMON_NAMES,
    "class_embedding.weight": "class_emb.weight",
    "position_embedding": "pos_1LC",
    "shared_modulation.weight": "shared_ada_lin.1.weight",
    "shared_modulation.bias": "shared_ada_lin.1.bias",
    "head_modulation.weight": "head_nm.ada_lin.1.weight",
    "head_modulation.bias": "head_nm.ada_lin.1.bias",
    "head.weight": "head.weight",
    "head.bias": "head.bias",
}

_BLOCK: Names = {
    **COMMON_BLOCK,
    "modulation.weight": "ada_lin.1.weight",
    "modulation.bias": "ada_lin.1.bias",
    "modulation_offset": "ada_gss",
}

TRANSFORMER = PublishedNetwork(
    title="a class-conditional VAR transformer",
    names=lambda config: {**_NAMES, **names_in_blocks(_BLOCK, config.transformer.depth)},
    markers=frozenset({"head_nm.ada_lin.1.weight", "pos_1LC"}),
    buffers=re.compile(
        r"blocks\.\d+\.attn\.zero_k_bias"
        r"|lvl_1L|attn_bias_for_masking"  # the schedule and the mask of training
    ),
    zeros=re.compile(r"blocks\.\d+\.attn\.zero_k_bias"),
    shapes={
        "pos_start": lambda native: (1, 1, *native),
        "pos_1LC": lambda native: (1, *native),
        "ada_gss": lambda native: (1, 1, *native),
        "scale_mul_1H11": lambda native: (1, native[0], 1, 1),
    },
)


def _vqvae_names(config: ModelConfig) -> Names:
    tokenizer = config.tokenizer
    if not isinstance(tokenizer, TokenizerConfig):
        raise ConfigError(f"a {tokenizer.kind} tokenizer has no published form")
    modules = {
        "quantizer.codebook": "quantize.embedding",
        "quant_conv": "quant_conv",
        "post_quant_conv": "post_quant_conv",
    }
    for k in range(tokenizer.num_phi):
        modules[f"quantizer.phi.{k}.conv"] = f"quantize.quant_resi.qresi_ls.{k}"
    return {**_weights_and_biases(modules), **autoencoder_names(tokenizer)}


def autoencoder_names(tokenizer: ImageTokenizerConfig) -> Names:
    """The names of all tensors of a convolutional encoder and decoder, which other families have too."""
    if not isinstance(tokenizer, TokenizerConfig | BitTokenizerConfig):
        raise ConfigError(f"a {tokenizer.kind} tokenizer has no published form")
    modules = {}
    last = len(tokenizer.channel_multipliers) - 1
    for network, levels, resample, blocks in (
        ("encoder", "down", "downsample", tokenizer.num_res_blocks),
        ("decoder", "up", "upsample", tokenizer.num_res_blocks + 1),
    ):
        for name in ("conv_in", "norm_out", "conv_out"):
            modules[f"{network}.{name}"] = f"{network}.{name}"
        modules |= _block(f"{network}.middle.0", f"{network}.mid.block_1")
        if tokenizer.attention:
            modules |= _attention(f"{network}.middle.1", f"{network}.mid.attn_1")
        modules |= _block(f"{network}.middle.{1 + tokenizer.attention}", f"{network}.mid.block_2")
        for i in range(last + 1):
            # Official levels count from high to low resolution in both; native ones in the order they run.
            native, official = (
                f"{network}.levels.{i if levels == 'down' else last - i}",
                f"{network}.{levels}.{i}",
            )
            modules[f"{native}.resample.conv"] = f"{official}.{resample}.conv"
            for j in range(blocks):
                modules |= _block(f"{native}.blocks.{j}", f"{official}.block.{j}")
                modules |= _attention(f"{native}.attentions.{j}", f"{official}.attn.{j}")
    return _weights_and_biases(modules)


def _weights_and_biases(modules: Mapping[str, str]) -> Names:
    return {
        f"{native}.{end}": f"{official}.{end}"
        for native, official in modules.items()
        for end in ("weight", "bias")
    }


def _block(native: str, official: str) -> dict[str, str]:
    same = {
        f"{native}.{name}": f"{official}.{name}" for name in ("norm1", "conv1", "norm2", "conv2")
    }
    return {**same, f"{native}.shortcut": f"{official}.nin_shortcut"}


def _attention(native: str, official: str) -> dict[str, str]:
    names = {"norm": "norm", "qkv": "qkv", "proj": "proj_out"}
    return {f"{native}.{ours}": f"{official}.{theirs}" for ours, theirs in names.items()}


VQVAE = PublishedNetwork(
    title="a VQVAE",
    names=_vqvae_names,
    markers=frozenset({"quantize.embedding.weight"}),
    buffers=re.compile(r"quantize\.ema_vocab_hit_SV"),  # a statistic of codebook usage
)

VQVAE_FILE = HubFile(REPOSITORY, "vae_ch160v4096z32.pth")

FAMILY = Family(
    describes=lambda config: config.transformer.num_classes > 0,
    presets=(
        *(_preset(f"var-d{depth}", depth, SIDES_256) for depth in (16, 20, 24, 30)),
        _preset("var-d36", 36, SIDES_512, "shared"),
        *(
            _preset(f"var-d{depth}-cca", depth, SIDES_256, sampling=CCA_SAMPLING)
            for depth in (16, 20, 24, 30)
        ),
    ),
    transformer=TRANSFORMER,
    vqvae=VQVAE,
    transformer_files={
        **{f"var-d{d}": HubFile(REPOSITORY, f"var_d{d}.pth") for d in (16, 20, 24, 30, 36)},
        **{
            f"var-d{d}-cca": HubFile(CCA_REPOSITORY, f"CCA_VAR_Guidance_Free/VAR_d{d}_CCA.pth")
            for d in (16, 20, 24, 30)
        },
    },
    vqvae_file=VQVAE_FILE,
    text_encoders=(),
    license="MIT",
    # Neither the repository of the weights nor that of the code states one.
    other_licenses={f"var-d{d}-cca": None for d in (16, 20, 24, 30)},
)
