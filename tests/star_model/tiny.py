"""Tiny models for tests: real code and shapes, weights by formula, made in milliseconds and without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from star_model.checkpoints.saving import save_model
from star_model.config import (
    BitTokenizerConfig,
    ModelConfig,
    TextEncoderConfig,
    TokenizerConfig,
    TransformerConfig,
)
from star_model.families import infinity, switti
from star_model.model import StarModel
from star_model.networks.clip_pair import load_published_clip_pair
from star_model.networks.text_encoder import (
    ClassEncoder,
    TextConditioning,
    TextEncoder,
    TransformersTextEncoder,
    load_published_t5,
)
from star_model.networks.tokenizers import build_tokenizer
from star_model.networks.transformer import StarTransformer
from tests.star_model.formula import fill, normal

TEXT_DIM = 32
MAX_TOKENS = 12


def tiny_config(**changes: Any) -> ModelConfig:
    """A whole model in 100,000 parameters: 32 x 32 pixels, four scales, 79 tokens."""
    config = ModelConfig(
        name="tiny",
        patch_nums=(1, 2, 5, 7),
        transformer=TransformerConfig(depth=2, num_heads=1, text_dim=TEXT_DIM),
        tokenizer=TokenizerConfig(
            vocab_size=96,
            latent_channels=8,
            base_channels=8,
            channel_multipliers=(1, 2),
            num_res_blocks=1,
            num_groups=4,
            patch_size=2,
        ),
        text_encoder=TextEncoderConfig(family="sentence", max_tokens=MAX_TOKENS),
    )
    return replace(config, **changes)


class HashTextEncoder:
    """Features that depend on nothing but the prompt; as many unmasked positions as it has words, and two.

    Without padding, those are all, and there is no pooled feature.
    """

    def __init__(
        self,
        text_dim: int = TEXT_DIM,
        max_tokens: int = MAX_TOKENS,
        pooled_dim: int = 0,
        *,
        pads: bool = True,
    ) -> None:
        self.text_dim, self.max_tokens, self.pads = text_dim, max_tokens, pads
        self.pooled_dim = pooled_dim or text_dim

    def encode(self, prompts: Sequence[str]) -> list[TextConditioning]:
        return [self._encode_one(prompt) for prompt in prompts]

    def _encode_one(self, prompt: str) -> TextConditioning:
        hidden = normal(f"hidden/{prompt}", (self.max_tokens, self.text_dim))
        used = min(len(prompt.split()) + 2, self.max_tokens)
        if not self.pads:
            return TextConditioning(
                hidden[:used], torch.ones(used, dtype=torch.bool), torch.empty(0)
            )
        pooled = normal(f"pooled/{prompt}", (self.pooled_dim,))
        return TextConditioning(hidden, torch.arange(self.max_tokens) < used, pooled)


def tiny_encoder(config: ModelConfig) -> TextEncoder:
    """What turns prompts into conditioning without any file."""
    if classes := config.transformer.num_classes:
        return ClassEncoder(classes)
    t = config.transformer
    return HashTextEncoder(
        t.text_dim,
        config.text_encoder.max_tokens,
        t.pooled_width,
        pads=config.text_encoder.family != "t5",
    )


def build_tiny_model(
    config: ModelConfig | None = None, text_encoder: TextEncoder | None = None
) -> StarModel:
    """A model in memory, on the CPU in float32, with the given text encoder or :func:`tiny_encoder`'s."""
    config = config or tiny_config()
    transformer, vqvae = StarTransformer(config), build_tokenizer(config)
    for module in (transformer, vqvae):
        fill(module, type(module).__name__)
        module.eval().requires_grad_(False)
    encoder = text_encoder or tiny_encoder(config)
    return StarModel(config, transformer, vqvae, encoder, torch.device("cpu"), torch.float32)


_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def tiny_bert(hidden_size: int = TEXT_DIM, max_tokens: int = MAX_TOKENS) -> TransformersTextEncoder:
    """A sentence encoder with a vocabulary of single letters and some words."""
    from transformers import BertConfig, BertModel, BertTokenizer

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *_LETTERS,
        *(f"##{c}" for c in _LETTERS),
        ",",
        ".",
    ]
    words += ["red", "green", "blue", "apple", "cat", "background", "on"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, do_lower_case=True)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=max_tokens,
    )
    model = BertModel(config, add_pooling_layer=False)
    fill(model, "bert")
    return TransformersTextEncoder(model, tokenizer, TextEncoderConfig("sentence", max_tokens))


def class_conditional(
    num_classes: int = 10, adaptive_norm: Literal["none", "block", "shared"] = "block"
) -> dict[str, Any]:
    """The changes to :func:`tiny_config` that make it a VAR."""
    transformer = TransformerConfig(
        depth=2,
        num_heads=1,
        num_classes=num_classes,
        positions="absolute",
        adaptive_norm=adaptive_norm,
    )
    return {"transformer": transformer, "text_encoder": TextEncoderConfig("imagenet", max_tokens=0)}


def switti_like(
    self_attention: Literal["earlier_scales", "own_scale"] = "own_scale",
) -> dict[str, Any]:
    """The changes to :func:`tiny_config` that make it a Switti."""
    transformer = replace(
        switti.transformer_config(2, self_attention), num_heads=1, text_dim=TEXT_DIM, pooled_dim=12
    )
    return {
        "transformer": transformer,
        "text_encoder": TextEncoderConfig("clip_pair", MAX_TOKENS),
    }


WIDE = ((1, 1), (1, 2), (3, 5), (4, 7))
"""The token maps of a second shape for the schedule of :func:`tiny_config`: 16 x 28 pixels there."""


def infinity_like(token_patch: int = 1) -> dict[str, Any]:
    """The changes to :func:`tiny_config` that make it an Infinity, of two shapes."""
    transformer = replace(
        infinity.transformer_config(2, 1, text_dim=TEXT_DIM, head_dim=16),
        refiner_heads=2,
        scale_embeddings=6,
    )
    return {
        "transformer": transformer,
        "tokenizer": BitTokenizerConfig(
            latent_channels=6,
            token_patch=token_patch,
            base_channels=8,
            channel_multipliers=(1, 2, 2)[: 4 - token_patch],
            num_res_blocks=1,
            num_groups=4,
        ),
        "text_encoder": TextEncoderConfig("t5", MAX_TOKENS),
        "sampling": infinity.SAMPLING_2B,
        "guidance": "constant",
        "other_shapes": (WIDE,),
        "rope_grids": ((9, 9), (6, 11)),
    }


FAMILIES: dict[str, dict[str, Any]] = {
    "star": {},
    "var": class_conditional(),
    "var-shared": class_conditional(adaptive_norm="shared"),
    "switti": switti_like(),
    "switti-ar": switti_like("earlier_scales"),
    "infinity": infinity_like(),
    "infinity-patches": infinity_like(token_patch=2),
}
"""The changes to :func:`tiny_config` for each architecture, by name."""


def write_tiny_model(directory: Path, **changes: Any) -> Path:
    """Write a complete native model directory, which any process can load and serve; returns ``directory``.

    ``changes`` are to the fields of :func:`tiny_config`.
    """
    config = tiny_config(**changes)
    t, tokens = config.transformer, config.text_encoder.max_tokens
    encoder: TextEncoder | None = None
    if config.text_encoder.family == "clip_pair":
        with TemporaryDirectory() as folder:
            clips = [
                write_tiny_clip_repository(Path(folder) / str(width), hidden_size=width)
                for width in (t.text_dim - t.pooled_width, t.pooled_width)
            ]
            encoder = load_published_clip_pair(clips, config.text_encoder, dtype=torch.float32)
    elif config.text_encoder.family == "t5":
        with TemporaryDirectory() as folder:
            t5 = write_tiny_t5(Path(folder) / "t5", hidden_size=t.text_dim)
            encoder = load_published_t5(t5, config.text_encoder, dtype=torch.float32)
    elif not t.num_classes:
        encoder = tiny_bert(t.text_dim, tokens)
    save_model(build_tiny_model(config, encoder), directory)
    return directory


GOLDFISH = "a goldfish"
"""A class of :func:`write_quick_model`."""


def write_quick_model(directory: Path, **changes: Any) -> Path:
    """Write a tiny VAR for tests of servers that are started again and again, whatever they paint: since it reads no
    text, a worker loads no transformers and is ready in half the time; returns ``directory``."""
    return write_tiny_model(directory, **{**class_conditional(), **changes})


def _byte_characters() -> list[str]:
    """The 256 characters that byte-level tokenizers write for bytes: itself where it prints, else from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printed]
    return [chr(b) for b in printed] + [chr(256 + i) for i in range(len(rest))]


def write_tiny_clip(folder: Path, *, hidden_size: int, max_tokens: int = 77) -> Path:
    """Write a folder laid out as the published ``CLIP`` is; returns ``folder``."""
    from transformers import CLIPTextConfig, CLIPTextModel

    _write_clip_tokenizer(folder / "tokenizer", max_tokens)
    config = _tiny_clip_config(hidden_size=hidden_size, max_tokens=max_tokens)
    model = CLIPTextModel(CLIPTextConfig(**config))
    fill(model, "clip")
    model.save_pretrained(folder / "text_encoder")
    return folder


def write_tiny_clip_repository(folder: Path, *, hidden_size: int, max_tokens: int = 77) -> Path:
    """Write a folder laid out as the repository of a CLIP model is, with its image encoder; returns ``folder``."""
    from transformers import CLIPConfig, CLIPModel

    _write_clip_tokenizer(folder, max_tokens)
    small = {"num_hidden_layers": 1, "intermediate_size": 16}
    text = {**_tiny_clip_config(hidden_size=hidden_size, max_tokens=max_tokens), **small}
    vision = {"hidden_size": 8, "num_attention_heads": 1, "image_size": 8, "patch_size": 4, **small}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=4))
    fill(model, "clip")
    model.save_pretrained(folder)
    return folder


def write_tiny_t5(folder: Path, *, hidden_size: int) -> Path:
    """Write a folder laid out as the repository of a T5 model is, with its decoder; returns ``folder``."""
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in f"{_LETTERS},.!?"]
    pieces += [(f"▁{word}", -1.0) for word in ("red", "green", "blue", "apple", "cat", "on")]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=2)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=hidden_size,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    model = T5ForConditionalGeneration(config)
    fill(model, "t5")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tiny_clip_config(*, hidden_size: int, max_tokens: int) -> dict[str, Any]:
    words = _clip_words()
    return {
        "vocab_size": len(words),
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": max_tokens,
        "bos_token_id": len(words) - 2,
        "eos_token_id": len(words) - 1,
        "pad_token_id": 0,
    }


_MERGES = ["a p", "ap p", "app l", "appl e</w>", "r e", "re d</w>"]


def _clip_words() -> list[str]:
    characters = _byte_characters()
    words = [*characters, *(c + "</w>" for c in characters), *(m.replace(" ", "") for m in _MERGES)]
    return [*words, "<|startoftext|>", "<|endoftext|>"]


def _write_clip_tokenizer(tokenizer: Path, max_tokens: int) -> None:
    tokenizer.mkdir(parents=True)
    vocabulary = {word: i for i, word in enumerate(_clip_words())}
    (tokenizer / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tokenizer / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(_MERGES) + "\n", encoding="utf-8"
    )
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    special["pad_token"] = "!"
    (tokenizer / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    settings = {**special, "model_max_length": max_tokens, "tokenizer_class": "CLIPTokenizer"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
