"""What a model is made of: frozen dataclasses that are validated when built, and the published presets.

A native model directory stores :class:`ModelConfig` as ``config.json``; see :mod:`star_model.checkpoints.native`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_type_hints

from pydantic import ValidationError

from star_model.errors import ConfigError
from star_model.sampling import Sampling
from star_model.scales import ScaleSchedule

HEAD_DIM = 64
KEPT_TEXTS = 4
"""Texts whose keys and values an engine keeps: the empty prompt's, and those of the last requests."""
IMAGENET_CLASSES = 1000


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class TokenizerConfig:
    """The VQVAE and its codebook. The defaults are the published tokenizer (``vae_ch160v4096z32``).

    Args:
        vocab_size: codebook vectors ``V``.
        latent_channels: channels ``z`` of a codebook vector.
        base_channels: channels of the highest resolution level.
        channel_multipliers: width of each level relative to ``base_channels``, from high to low resolution.
        num_res_blocks: residual blocks of an encoder level; decoder levels have one more.
        num_groups: groups of every GroupNorm. With as many groups as channels the norm erases colour.
        patch_size: side of the pixel block folded into channels before the first convolution; 1 is none.
        attention: self-attention at the lowest resolution. Without it the network is a pure convolution.
        padding_mode: what convolutions see beyond the border.
        shortcuts: linear paths around the resampling convolutions and the output norms, in the manner of
            DC-AE (arXiv 2410.10733). Colour then has a way through that no norm stands in, and training is
            far shorter.
        num_phi: phi convolutions shared by the scales.
        phi_ratio: weight of a phi convolution against its input.
    """

    vocab_size: int = 4096
    latent_channels: int = 32
    base_channels: int = 160
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    num_groups: int = 32
    patch_size: int = 1
    attention: bool = True
    padding_mode: Literal["zeros", "replicate"] = "zeros"
    num_phi: int = 4
    phi_ratio: float = 0.5

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "latent_channels", "base_channels", "num_res_blocks", "num_groups", "patch_size",
            "num_phi",
        ):  # fmt: skip
            _require(
                getattr(self, name) >= 1,
                f"tokenizer.{name} must be at least 1, got {getattr(self, name)}",
            )
        _require(
            len(self.channel_multipliers) >= 1, "tokenizer.channel_multipliers must not be empty"
        )
        for width in self.level_channels:
            _require(
                width % self.num_groups == 0,
                f"tokenizer.num_groups ({self.num_groups}) must divide every level's width, got {width}",
            )
        _require(
            0 <= self.phi_ratio <= 1, f"tokenizer.phi_ratio must be in [0, 1], got {self.phi_ratio}"
        )
        _require(
            self.padding_mode in ("zeros", "replicate"),
            f"tokenizer.padding_mode must be zeros or replicate, got {self.padding_mode!r}",
        )

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Width of each level, from high to low resolution."""
        return tuple(self.base_channels * m for m in self.channel_multipliers)

    @property
    def downsampling(self) -> int:
        """Pixels along one side of a token of the last scale."""
        factor: int = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
        return factor


@dataclass(frozen=True)
class TransformerConfig:
    """The next-scale transformer. Heads are always 64 wide, so the width follows from their number.

    The defaults are STAR's; what differs in VAR is at the end.

    Args:
        depth: blocks.
        num_heads: attention heads; the published rule is one a block.
        text_dim: width of the text encoder's hidden states and of its pooled feature; 0 for a
            class-conditional model, whose blocks have no cross-attention.
        mlp_ratio: width of the feed-forward layer relative to the model's.
        rope_theta: base of the rotary frequencies.
        rope_norm: the position that the far edge of every scale is normalized to.
        cross_attention_rows: which rows of a guidance pair attend to a text of their own. ``conditional``:
            the prompt's cross-attention is added to both rows, as the published STAR checkpoints were
            trained; ``own``: each row uses its own text.
        num_classes: classes of a class-conditional model, 0 for a text-conditional one. The index after the
            last is the class of the unconditional row.
        positions: how tokens know their place: ``rope`` turns queries and keys, ``absolute`` adds a learnt
            vector for each position of each scale.
        place_features: whether tokens are also told their place on the square by a linear map of the rotary
            table. Rotation alone tells places apart only through attention, which a short training learns late;
            the published models do without.
        adaptive_norm: whether the class scales, shifts and gates what every layer computes (AdaLN), through a
            linear layer in each block or one that is shared.
    """

    depth: int
    num_heads: int
    text_dim: int = 0
    mlp_ratio: float = 4.0
    rope_theta: float = 10000.0
    rope_norm: float = 64.0
    cross_attention_rows: Literal["conditional", "own"] = "own"
    num_classes: int = 0
    positions: Literal["rope", "absolute"] = "rope"
    place_features: bool = False
    adaptive_norm: Literal["none", "block", "shared"] = "none"

    def __post_init__(self) -> None:
        for name in ("depth", "num_heads"):
            _require(
                getattr(self, name) >= 1,
                f"transformer.{name} must be at least 1, got {getattr(self, name)}",
            )
        for name in ("text_dim", "num_classes"):
            _require(
                getattr(self, name) >= 0,
                f"transformer.{name} must not be negative, got {getattr(self, name)}",
            )
        _require(
            (self.text_dim > 0) != (self.num_classes > 0),
            "one of transformer.text_dim (a text-conditional model) and transformer.num_classes (a "
            f"class-conditional one) must be positive, got {self.text_dim} and {self.num_classes}",
        )
        for name in ("mlp_ratio", "rope_theta", "rope_norm"):
            _require(
                getattr(self, name) > 0,
                f"transformer.{name} must be positive, got {getattr(self, name)}",
            )
        _require(
            self.cross_attention_rows in ("conditional", "own"),
            f"transformer.cross_attention_rows must be conditional or own, got {self.cross_attention_rows!r}",
        )
        _require(
            self.positions in ("rope", "absolute"),
            f"transformer.positions must be rope or absolute, got {self.positions!r}",
        )
        _require(
            self.positions == "rope" or not self.place_features,
            "transformer.place_features needs transformer.positions rope, whose table they are made of",
        )
        _require(
            self.adaptive_norm in ("none", "block", "shared"),
            f"transformer.adaptive_norm must be none, block or shared, got {self.adaptive_norm!r}",
        )
        _require(
            self.adaptive_norm == "none" or self.num_classes > 0,
            f"transformer.adaptive_norm {self.adaptive_norm} needs a class-conditional model",
        )

    @property
    def width(self) -> int:
        """Channels ``C`` of a token."""
        return HEAD_DIM * self.num_heads

    @property
    def text_rows(self) -> int:
        """Rows of a guidance pair that need text keys and values of their own."""
        return 1 if self.cross_attention_rows == "conditional" else 2

    @property
    def modulation_vectors(self) -> int:
        """Vectors by which the class modulates the layers: six a block and two before the head, or none."""
        return 0 if self.adaptive_norm == "none" else 6 * self.depth + 2


@dataclass(frozen=True)
class TextEncoderConfig:
    """The frozen text encoder, or what stands in its place.

    Args:
        family: ``clip`` pools the end-of-text position; ``sentence`` averages all positions and normalises;
            ``imagenet`` takes the prompt for the name of an ImageNet class and looks up its number.
        max_tokens: positions a prompt is padded or cut to; 0 for ``imagenet``, which has none.
    """

    family: Literal["clip", "sentence", "imagenet"] = "clip"
    max_tokens: int = 77

    def __post_init__(self) -> None:
        _require(
            self.family in ("clip", "sentence", "imagenet"),
            f"text_encoder.family must be clip, sentence or imagenet, got {self.family!r}",
        )
        fits = self.max_tokens == 0 if self.family == "imagenet" else self.max_tokens >= 2
        _require(
            fits,
            "text_encoder.max_tokens must be at least 2, or 0 with text_encoder.family imagenet, "
            f"got {self.max_tokens} with {self.family}",
        )


@dataclass(frozen=True)
class ModelConfig:
    """Everything that ``config.json`` holds."""

    name: str
    patch_nums: tuple[int, ...]
    transformer: TransformerConfig
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        try:
            ScaleSchedule(self.patch_nums)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        family, classes = self.text_encoder.family, self.transformer.num_classes
        _require(
            (family == "imagenet") == (classes > 0),
            f"text_encoder.family {family} does not fit transformer.num_classes {classes}: "
            "imagenet is for class-conditional models, and for them alone",
        )
        _require(
            classes <= IMAGENET_CLASSES,
            f"transformer.num_classes must be at most {IMAGENET_CLASSES}, those of ImageNet, got {classes}",
        )

    @cached_property
    def schedule(self) -> ScaleSchedule:
        return ScaleSchedule(self.patch_nums)

    @property
    def image_size(self) -> int:
        """Side of the (square) image in pixels."""
        return self.schedule.last_side * self.tokenizer.downsampling

    def memory_per_slot_bytes(self, bytes_per_value: int) -> int:
        """Bytes of one slot of the engine: keys and values of an image, and its text or its class, in every layer.

        Args:
            bytes_per_value: 4 for float32, 2 for bfloat16 and float16.
        """
        t = self.transformer
        tokens = 2 * self.schedule.cached_tokens + t.text_rows * self.text_encoder.max_tokens
        return (2 * t.depth * tokens + 2 * t.modulation_vectors) * t.width * bytes_per_value

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; the inverse of :meth:`from_dict`."""
        return dataclasses.asdict(self) | {"sampling": self.sampling.model_dump()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Build a configuration from parsed JSON.

        Raises:
            ConfigError: naming the key that is unknown, missing, of the wrong type or out of range.
        """
        config: ModelConfig = _from_dict(cls, data, "")
        return config


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


def _from_dict(cls: type[Any], data: Any, path: str) -> Any:
    what = path.rstrip(".") or "the configuration"
    _require(isinstance(data, dict), f"{what} must be an object, got {data!r}")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(data.keys() - fields.keys()):
        raise ConfigError(f"unknown key {path}{unknown[0]}; known are {', '.join(sorted(fields))}")
    values = {}
    for name, f in fields.items():
        if name not in data:
            optional = (
                f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
            )
            _require(optional, f"missing key {path}{name}")
            continue
        hint, value = hints[name], data[name]
        if hint is Sampling:
            try:
                values[name] = Sampling(**value)
            except ValidationError as error:
                raise ConfigError(f"{path}{name}.{error.errors()[0]['loc'][0]}: {error}") from error
        elif dataclasses.is_dataclass(hint):
            values[name] = _from_dict(hint, value, f"{path}{name}.")  # type: ignore[arg-type]
        elif hint == tuple[int, ...]:
            whole = isinstance(value, (list, tuple)) and all(type(v) is int for v in value)
            _require(whole, f"{path}{name} must be a list of integers, got {value!r}")
            values[name] = tuple(value)
        else:
            kind = hint if hint in _KINDS else str  # a Literal is checked by the class
            wanted = (int, float) if kind is float else kind
            right = isinstance(value, wanted) and (kind is bool or not isinstance(value, bool))
            _require(right, f"{path}{name} must be {_KINDS[kind]}, got {value!r}")
            values[name] = value
    return cls(**values)


_SIDES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
_SIDES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
_SIDES_1024 = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)


def _star(name: str, depth: int, patch_nums: tuple[int, ...]) -> ModelConfig:
    transformer = TransformerConfig(
        depth=depth, num_heads=depth, text_dim=1024, cross_attention_rows="conditional"
    )
    return ModelConfig(name=name, patch_nums=patch_nums, transformer=transformer)


def _var(
    name: str, depth: int, patch_nums: tuple[int, ...], adaptive_norm: Literal["block", "shared"]
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
        sampling=Sampling(guidance_scale=4.0, top_k=900, top_p=0.95),  # those of the published demo
    )


PRESETS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        _star("star-256-d16", 16, _SIDES_256),
        _star("star-256", 30, _SIDES_256),
        _star("star-512", 30, _SIDES_512),
        _star("star-1024", 30, _SIDES_1024),
        _var("var-d16", 16, _SIDES_256, "block"),
        _var("var-d20", 20, _SIDES_256, "block"),
        _var("var-d24", 24, _SIDES_256, "block"),
        _var("var-d30", 30, _SIDES_256, "block"),
        _var("var-d36", 36, _SIDES_512, "shared"),
    )
}
"""The published STAR and VAR models by name."""
