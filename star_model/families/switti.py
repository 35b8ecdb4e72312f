"""Switti (arXiv 2412.01819): text-conditional, two text encoders, VAR's tokenizer fine-tuned.

A published model is the transformer's safetensors file, the tokenizer's, and two repositories of CLIP models. The
variants whose names end in ``ar`` attend to earlier scales; in the others each scale attends to itself alone.
"""

from __future__ import annotations

import re
from typing import Literal

from star_model.config import ModelConfig, TextEncoderConfig, TransformerConfig
from star_model.families import var
from star_model.families.family import Family, HubFile, Names, PublishedNetwork, names_in_blocks
from star_model.families.star import SIDES_1024
from star_model.sampling import Sampling

OWNER = "yresearch"

SAMPLING_512 = Sampling(guidance_scale=6.0, top_k=400, top_p=0.95)
"""The defaults of the published pipeline."""
SAMPLING_1024 = SAMPLING_512.changed(
    {"unguided_scales": 3, "unguided_temperature": 0.1, "mixed_scales": 12}
)
"""What its authors recommend at 1024 pixels: no guidance from scale 11 of 14 on, mixtures from scale 2 on."""


def _preset(
    name: str,
    patch_nums: tuple[int, ...],
    self_attention: Literal["earlier_scales", "own_scale"],
    sampling: Sampling,
) -> ModelConfig:
    return ModelConfig(
        name=name,
        patch_nums=patch_nums,
        transformer=transformer_config(30, self_attention),
        text_encoder=TextEncoderConfig(family="clip_pair"),
        sampling=sampling,
    )


def transformer_config(
    depth: int, self_attention: Literal["earlier_scales", "own_scale"], rope_norm: float = 128.0
) -> TransformerConfig:
    """The published transformer with ``depth`` blocks; ``rope_norm`` is called ``rope_size`` there."""
    return TransformerConfig(
        depth=depth,
        num_heads=depth,
        text_dim=768 + 1280,
        pooled_dim=1280,
        mlp_ratio=8 / 3,
        rope_norm=rope_norm,
        adaptive_norm="block",
        block_norm="rms_sandwich",
        feed_forward="swiglu",
        qk_norm="layer",
        self_attention=self_attention,
        crop_condition=True,
    )


_NAMES: Names = {
    **var.COMMON_NAMES,
    "text_projection.weight": "text_pooler.weight",
    "text_projection.bias": "text_pooler.bias",
    "crop.frequencies": "crop_embed.weight",
    "crop.projection.weight": "crop_proj.weight",
    "crop.projection.bias": "crop_proj.bias",
    "head_modulation.weight": "head_nm.ada_lin.1.weight",
    "head_modulation.bias": "head_nm.ada_lin.1.bias",
    "head.weight": "head.weight",
    "head.bias": "head.bias",
}

_BLOCK: Names = {
    "self_attention.qkv.weight": "attn.to_qkv.weight",
    "self_attention.qkv.bias": "attn.to_qkv.bias",
    "self_attention.proj.weight": "attn.proj.weight",
    "self_attention.proj.bias": "attn.proj.bias",
    "self_attention_norm.norm1.weight": "self_attention_norm1.weight",
    "self_attention_norm.norm2.weight": "self_attention_norm2.weight",
    "cross_attention.text_norm.weight": "attention_y_norm.weight",
    "cross_attention.q.weight": "cross_attn.to_q.weight",
    "cross_attention.q.bias": "cross_attn.to_q.bias",
    "cross_attention.kv.weight": "cross_attn.to_kv.weight",
    "cross_attention.kv.bias": "cross_attn.to_kv.bias",
    "cross_attention.proj.weight": "cross_attn.proj.weight",
    "cross_attention.proj.bias": "cross_attn.proj.bias",
    "cross_attention_norm.norm1.weight": "cross_attention_norm1.weight",
    "cross_attention_norm.norm2.weight": "cross_attention_norm2.weight",
    "feed_forward.gate.weight": "ffn.gate_proj.weight",
    "feed_forward.up.weight": "ffn.up_proj.weight",
    "feed_forward.down.weight": "ffn.down_proj.weight",
    "feed_forward_norm.norm1.weight": "ffn_norm1.weight",
    "feed_forward_norm.norm2.weight": "ffn_norm2.weight",
    "modulation.weight": "ada_lin.1.weight",
    "modulation.bias": "ada_lin.1.bias",
    "crop_scale": "crop_cond_scales",
}

TRANSFORMER = PublishedNetwork(
    title="a Switti transformer",
    names=lambda config: {**_NAMES, **names_in_blocks(_BLOCK, config.transformer.depth)},
    markers=frozenset({"text_pooler.weight", "crop_embed.weight"}),
    buffers=re.compile(r"lvl_1L|attn_bias_for_masking"),  # the schedule and the mask of training
    shapes={
        "pos_start": lambda native: (1, 1, *native),
        "crop_cond_scales": lambda native: (1, *native),
    },
)


def _clip(repository: str, *weights: str) -> HubFile:
    files = ("config.json", *weights, "vocab.json", "merges.txt", "tokenizer_config.json")
    return HubFile(repository, "", files, folder=repository.partition("/")[2])


def _file(name: str) -> HubFile:
    return HubFile(f"{OWNER}/{name}", "model.safetensors", folder=name)


FAMILY = Family(
    describes=lambda config: config.transformer.block_norm == "rms_sandwich",
    presets=(
        _preset("switti-512", var.SIDES_512, "own_scale", SAMPLING_512),
        _preset("switti-512-ar", var.SIDES_512, "earlier_scales", SAMPLING_512),
        _preset("switti-1024", SIDES_1024, "own_scale", SAMPLING_1024),
        _preset("switti-1024-ar", SIDES_1024, "earlier_scales", SAMPLING_1024),
    ),
    transformer=TRANSFORMER,
    vqvae=var.VQVAE,
    transformer_files={
        "switti-512": _file("Switti"),
        "switti-512-ar": _file("Switti-AR"),
        "switti-1024": _file("Switti-1024"),
        "switti-1024-ar": _file("Switti-1024-AR"),
    },
    vqvae_file=_file("VQVAE-Switti"),
    text_encoders=(
        _clip("openai/clip-vit-large-patch14", "model.safetensors"),
        _clip(
            "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ),
    ),
    license=None,  # the code is under Apache-2.0; the repositories of the weights state none
)
