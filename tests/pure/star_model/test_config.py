from __future__ import annotations

import json
import math
import re
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from star_model.config import (
    ModelConfig,
    TextEncoderConfig,
    TokenizerConfig,
    TransformerConfig,
)
from star_model.errors import ConfigError
from star_model.families.registry import PRESETS
from star_model.sampling import Sampling
from tests.star_model.tiny import class_conditional, tiny_config


@pytest.mark.parametrize(
    "config", [*PRESETS.values(), tiny_config()], ids=lambda config: config.name
)
def test_round_trip_through_json(config: ModelConfig) -> None:
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert isinstance(again.patch_nums, tuple)
    assert again.tokenizer == config.tokenizer


def test_presets() -> None:
    sizes = {
        name: (c.image_size, c.transformer.depth, c.transformer.width)
        for name, c in PRESETS.items()
    }
    assert sizes == {
        "star-256": (256, 30, 1920),
        "star-512": (512, 30, 1920),
        "star-1024": (1024, 30, 1920),
        "switti-512": (512, 30, 1920),
        "switti-512-ar": (512, 30, 1920),
        "switti-1024": (1024, 30, 1920),
        "switti-1024-ar": (1024, 30, 1920),
        "infinity-2b": (1024, 32, 2048),
        "infinity-8b": (1024, 40, 3584),
        "infinity-8b-512": (512, 40, 3584),
        "var-d16": (256, 16, 1024),
        "var-d20": (256, 20, 1280),
        "var-d24": (256, 24, 1536),
        "var-d30": (256, 30, 1920),
        "var-d36": (512, 36, 2304),
        "var-d16-cca": (256, 16, 1024),
        "var-d20-cca": (256, 20, 1280),
        "var-d24-cca": (256, 24, 1536),
        "var-d30-cca": (256, 30, 1920),
    }
    assert all(c.transformer.text_rows == 1 for n, c in PRESETS.items() if n.startswith("star"))
    assert PRESETS["var-d30"].transformer.adaptive_norm == "block"
    assert PRESETS["var-d36"].transformer.adaptive_norm == "shared"
    assert PRESETS["var-d30-cca"].sampling == Sampling(guidance_scale=0, top_k=900, top_p=0.96)
    assert not any(PRESETS["var-d30-cca"].guided_scales)
    assert all(c.transformer.logit_norm for c in PRESETS.values())
    assert PRESETS["star-512"].sampling == Sampling(guidance_scale=4.0, top_k=600, top_p=0.8)


def test_sizes_that_follow() -> None:
    config = tiny_config()
    assert (config.image_size, config.tokenizer.downsampling) == (28, 4)
    assert isinstance(config.tokenizer, TokenizerConfig)
    assert config.tokenizer.level_channels == (8, 16)
    assert config.transformer.text_rows == 2
    # layers x keys and values x rows x (30 image tokens and 12 text tokens) x width x bytes
    assert config.memory_per_slot_bytes(4) == 2 * 2 * 2 * (30 + 12) * 64 * 4
    assert config.memory_per_slot_bytes(2) * 2 == config.memory_per_slot_bytes(4)


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        tiny_config().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("transformer", "depth", 0),
        ("transformer", "num_heads", -1),
        ("transformer", "num_classes", -1),
        ("transformer", "num_classes", 10),
        ("transformer", "positions", "learnt"),
        ("transformer", "adaptive_norm", "per-block"),
        ("transformer", "crop_condition", True),
        ("transformer", "self_attention", "own"),
        ("text_encoder", "family", "imagenet"),
        ("transformer", "text_dim", 0),
        ("transformer", "mlp_ratio", 0.0),
        ("transformer", "rope_theta", -1.0),
        ("transformer", "rope_norm", math.nan),
        ("transformer", "cross_attention_rows", "both"),
        ("tokenizer", "vocab_size", 0),
        ("tokenizer", "latent_channels", 0),
        ("tokenizer", "patch_size", 0),
        ("tokenizer", "num_phi", 0),
        ("tokenizer", "num_groups", 5),
        ("tokenizer", "channel_multipliers", ()),
        ("tokenizer", "phi_ratio", 1.5),
        ("tokenizer", "padding_mode", "reflect"),
        ("text_encoder", "family", "gpt"),
        ("text_encoder", "max_tokens", 1),
    ],
)
def test_a_value_out_of_range_is_named(part: str, field: str, value: Any) -> None:
    config = tiny_config()
    with pytest.raises(ConfigError, match=rf"{part}\.{field}"):
        replace(config, **{part: replace(getattr(config, part), **{field: value})})


def test_class_conditional() -> None:
    plain = tiny_config(**class_conditional(adaptive_norm="none"))
    assert (plain.transformer.text_dim, plain.transformer.modulation_vectors) == (0, 0)
    # Keys and values of 30 image tokens of both rows, and none of a text.
    assert plain.memory_per_slot_bytes(4) == 2 * 2 * 2 * 30 * 64 * 4
    adaptive = tiny_config(**class_conditional())
    assert adaptive.transformer.modulation_vectors == 14
    assert adaptive.memory_per_slot_bytes(4) == plain.memory_per_slot_bytes(4) + 2 * 14 * 64 * 4
    assert ModelConfig.from_dict(json.loads(json.dumps(adaptive.to_dict()))) == adaptive


def test_what_is_conditioned_must_fit() -> None:
    with pytest.raises(ConfigError, match="at most 1000, those of ImageNet, got 1001"):
        tiny_config(**class_conditional(1001))
    with pytest.raises(ConfigError, match="imagenet is for class-conditional models"):
        replace(tiny_config(**class_conditional()), text_encoder=TextEncoderConfig())
    with pytest.raises(
        ConfigError, match=r"text_encoder\.max_tokens must be .* got 77 with imagenet"
    ):
        TextEncoderConfig(family="imagenet")
    with pytest.raises(ConfigError, match="must be positive, got 0 and 0"):
        TransformerConfig(depth=1, num_heads=1)


def test_patch_nums_are_checked() -> None:
    with pytest.raises(ConfigError, match="must not decrease"):
        tiny_config(patch_nums=(1, 3, 2))


def changed(*path: str, **values: Any) -> dict[str, Any]:
    """The tiny configuration as JSON gives it, with keys of the object at ``path`` set, or dropped for None."""
    data: dict[str, Any] = json.loads(json.dumps(tiny_config().to_dict()))
    inner = data
    for part in path:
        inner = inner[part]
    for key, value in values.items():
        if value is None:
            del inner[key]
        else:
            inner[key] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(nmae="x"), "unknown key nmae; known are guidance, name, other_shapes, patch_nums"),
        (changed("transformer", dept=3), r"unknown key transformer\.dept"),
        (changed(name=None), "missing key name"),
        (changed("transformer", depth=None), r"missing key transformer\.depth"),
        (changed("transformer", depth="2"), r"transformer\.depth must be a whole number, got '2'"),
        (changed("transformer", depth=2.0), r"transformer\.depth must be a whole number, got 2\.0"),
        (
            changed("transformer", depth=True),
            r"transformer\.depth must be a whole number, got True",
        ),
        (changed("tokenizer", attention=1), r"tokenizer\.attention must be true or false, got 1"),
        (changed(patch_nums=[1, "2"]), r"patch_nums\[1\] must be a whole number, got '2'"),
        (changed(patch_nums=7), "patch_nums must be a list, got 7"),
        (changed(tokenizer=[]), "^tokenizer must be an object"),
        ([], "the content must be an object"),
        (changed("sampling", top_k=-1), r"sampling\.top_k"),
        (changed("sampling", top_p=1.01), r"sampling\.top_p"),
        (changed("sampling", guidance_scale=math.nan), r"sampling\.guidance_scale"),
        (
            changed("text_encoder", family=3),
            r"text_encoder\.family must be 'clip', 'clip_pair', 'sentence', 't5' or 'imagenet', got 3",
        ),
    ],
)
def test_bad_json_is_named(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(data)


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ((), "patch_nums", [1, 10**9]),
        ((), "patch_nums", [1, 1024]),
        ((), "patch_nums", [1] * 10**5),
        ((), "patch_nums", [1, 10**400]),
        (("transformer",), "depth", 10**6),
        (("transformer",), "num_heads", 10**9),
        (("transformer",), "text_dim", 10**9),
        (("transformer",), "mlp_ratio", 1e30),
        (("tokenizer",), "vocab_size", 10**12),
        (("tokenizer",), "latent_channels", 10**9),
        (("tokenizer",), "base_channels", 10**9),
        (("tokenizer",), "channel_multipliers", [1] * 40),
        (("tokenizer",), "channel_multipliers", [10**9]),
        (("tokenizer",), "num_res_blocks", 10**9),
        (("tokenizer",), "patch_size", 10**9),
        (("tokenizer",), "patch_size", 64 * 32),
        (("tokenizer",), "num_phi", 10**9),
        (("text_encoder",), "max_tokens", 10**9),
    ],
)
def test_absurd_sizes_are_refused(path: tuple[str, ...], key: str, value: Any) -> None:
    name = ".".join((*path, key))
    with pytest.raises(ConfigError, match=re.escape(name)) as raised:
        ModelConfig.from_dict(changed(*path, **{key: value}))
    assert len(str(raised.value)) < 300


def test_an_image_may_not_be_too_large() -> None:
    tokenizer = tiny_config().tokenizer
    assert isinstance(tokenizer, TokenizerConfig)
    tokenizer = replace(tokenizer, patch_size=64)
    with pytest.raises(ConfigError, match="images of 16384 pixels a side; at most 8192"):
        tiny_config(patch_nums=(1, 128), tokenizer=tokenizer)


def test_what_is_not_said_is_the_default() -> None:
    data = {
        "name": "x",
        "patch_nums": [1, 2],
        "transformer": {"depth": 1, "num_heads": 1, "text_dim": 8},
    }
    config = ModelConfig.from_dict(data)
    assert config.tokenizer == TokenizerConfig()
    assert config.text_encoder == TextEncoderConfig()
    assert config.transformer == TransformerConfig(1, 1, 8)


def test_a_whole_number_may_stand_for_a_float() -> None:
    assert ModelConfig.from_dict(changed("transformer", mlp_ratio=3)).transformer.mlp_ratio == 3
