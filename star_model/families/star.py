"""STAR (arXiv 2406.10797): text-conditional, on VAR's architecture and with VAR's tokenizer.

A published model is the transformer's ``.pth`` (``{"trainer": {"var_wo_ddp": state dict}}``), the tokenizer's ``.pth``
(a bare state dict) and a folder ``CLIP`` with ``tokenizer/`` and ``text_encoder/``.
"""

from __future__ import annotations

import re
from dataclasses import replace

from star_model.config import ModelConfig, TransformerConfig
from star_model.families import var
from star_model.families.family import Family, HubFile, Names, names_in_blocks

REPOSITORY = "taocrayon/STAR"

SIDES_1024 = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)


def _preset(name: str, depth: int, patch_nums: tuple[int, ...]) -> ModelConfig:
    transformer = TransformerConfig(
        depth=depth,
        num_heads=depth,
        text_dim=1024,
        cross_attention_rows="conditional",
        unguided_row="unconditional",  # as published for faster sampling of STAR (arXiv 2512.16483)
    )
    return ModelConfig(name=name, patch_nums=patch_nums, transformer=transformer)


_NAMES: Names = {
    **var.COMMON_NAMES,
    "text_projection.weight": "encoder_proj.weight",
    "text_projection.bias": "encoder_proj.bias",
    "head.weight": "head_logits.weight",
    "head.bias": "head_logits.bias",
}

_BLOCK: Names = {
    **var.COMMON_BLOCK,
    "cross_attention.log_temperature": "cross_attn.scale_mul_1H11",
    "cross_attention.q.weight": "cross_attn.mat_q.weight",
    "cross_attention.q.bias": "cross_attn.q_bias",
    "cross_attention.kv.weight": "cross_attn.mat_kv.weight",
    "cross_attention.kv.bias": (None, "cross_attn.v_bias"),  # keys have no bias, as in var.py
    "cross_attention.proj.weight": "cross_attn.proj.weight",
    "cross_attention.proj.bias": "cross_attn.proj.bias",
}

TRANSFORMER = replace(
    var.TRANSFORMER,
    title="a STAR transformer",
    names=lambda config: {**_NAMES, **names_in_blocks(_BLOCK, config.transformer.depth)},
    markers=frozenset({"encoder_proj.weight"}),
    buffers=re.compile(
        var.TRANSFORMER.buffers.pattern
        + r"|blocks\.\d+\.cross_attn\.zero_k_bias"
        + r"|class_emb\.weight"  # left over from VAR, unused
    ),
    zeros=re.compile(r"blocks\.\d+\.(attn|cross_attn)\.zero_k_bias"),
    unsupported=dict.fromkeys(
        (
            "word_embed_head.weight",
            "pos_start_last",
            "lvl_embed_2.weight",
            "encoder_proj2.weight",
            "head_proj.weight",
            "head_logits2.weight",
            "feat_extract_blocks.0.ffn.fc1.weight",
        ),
        "a STAR transformer with the causal sampler of its 1024-pixel demo, which is not supported (its weights were "
        "never released; star-1024 is the published one, without it)",
    ),
)

FAMILY = Family(
    describes=lambda config: (
        config.transformer.text_dim > 0
        and config.transformer.block_norm == "layer"
        and not config.transformer.refiner_heads
    ),
    presets=(
        _preset("star-256", 30, var.SIDES_256),
        _preset("star-512", 30, var.SIDES_512),
        _preset("star-1024", 30, SIDES_1024),
    ),
    transformer=TRANSFORMER,
    vqvae=var.VQVAE,
    transformer_files={
        "star-256": HubFile(REPOSITORY, "star_rope_d30_256-ar-ckpt-ep3-iter20000.pth"),
        "star-512": HubFile(REPOSITORY, "star_rope_d30_512-ar-ckpt-ep1-iter30000.pth"),
        "star-1024": HubFile(REPOSITORY, "star_rope_d30_1024_drop_3-ar-ckpt-ep1-iter21000.pth"),
    },
    vqvae_file=var.VQVAE_FILE,
    text_encoders=(
        HubFile(
            REPOSITORY,
            "CLIP",
            files=(
                "tokenizer/vocab.json",
                "tokenizer/merges.txt",
                "tokenizer/tokenizer_config.json",
                "tokenizer/special_tokens_map.json",
                "text_encoder/config.json",
                "text_encoder/model.safetensors",
            ),
        ),
    ),
    license=None,  # the code is under the MIT licence; for the weights none is known to be stated
    unpublished={
        "star-256-d16": "star-256-d16 is not available: its authors describe it, but have not published its weights "
        "and say that they will not; the smallest STAR that is published is star-256"
    },
)
