"""Configuration of a model: frozen dataclasses that are validated when built.

A native model directory stores :class:`ModelConfig` as ``config.json``; see :mod:`star_model.checkpoints.native`. The
published configurations are in :mod:`star_model.families`. Upper bounds are far above any model there is: they refuse a
hostile file before anything is allocated for it.
"""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Callable
from dataclasses import field
from functools import cached_property
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from star_model.errors import ConfigError
from star_model.json_file import describe, validate
from star_model.sampling import Sampling
from star_model.scales import ScaleSchedule

HEAD_DIM = 64
KEPT_TEXTS = 4
"""Texts whose keys and values an engine keeps: the empty prompt's, and those of the last requests."""
IMAGENET_CLASSES = 1000
MAX_IMAGE_SIDE = 8192
"""In pixels."""
MAX_TOKENS = 2**18
"""Of one image, all scales together."""

_CHECKED = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

T = TypeVar("T")


def _raises_config_error(section: str) -> Callable[[type[T]], type[T]]:
    """Decorate a pydantic dataclass: its constructor raises :class:`ConfigError`, whose text names the key.

    Args:
        section: key under which the class stands in ``config.json``.
    """

    def decorate(cls: type[T]) -> type[T]:
        init = cls.__init__

        @functools.wraps(init)
        def checked(self: T, *args: Any, **kwargs: Any) -> None:
            try:
                init(self, *args, **kwargs)
            except ValidationError as error:
                raise ConfigError(describe(error, cls, section)) from error

        cls.__init__ = checked  # type: ignore[assignment]
        return cls

    return decorate


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@_raises_config_error("tokenizer")
@dataclass(frozen=True, config=_CHECKED)
class TokenizerConfig:
    """A convolutional image tokenizer and its codebook; the defaults are the published ``vae_ch160v4096z32``.

    Args:
        kind: tells the kinds of image tokenizers apart in ``config.json``; this one when absent there.
        vocab_size: codebook vectors ``V``.
        latent_channels: channels ``z`` of a codebook vector.
        base_channels: channels of the highest resolution level.
        channel_multipliers: width of each level relative to ``base_channels``, from high to low resolution.
        num_res_blocks: residual blocks of an encoder level; decoder levels have one more.
        num_groups: groups of every GroupNorm. With as many groups as channels the norm erases colour.
        patch_size: side of the pixel block folded into channels before the first convolution; 1 is none.
        attention: self-attention at the lowest resolution. Without it the network is purely convolutional.
        padding_mode: padding of the convolutions.
        num_phi: phi convolutions shared by the scales.
        phi_ratio: weight of a phi convolution against its input.
    """

    kind: Literal["convolutional"] = field(default="convolutional", kw_only=True)
    vocab_size: Annotated[int, Field(ge=1, le=2**20)] = 4096
    latent_channels: Annotated[int, Field(ge=1, le=4096)] = 32
    base_channels: Annotated[int, Field(ge=1, le=4096)] = 160
    channel_multipliers: Annotated[
        tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=10)
    ] = (1, 1, 2, 2, 4)
    num_res_blocks: Annotated[int, Field(ge=1, le=16)] = 2
    num_groups: Annotated[int, Field(ge=1, le=4096)] = 32
    patch_size: Annotated[int, Field(ge=1, le=64)] = 1
    attention: bool = True
    padding_mode: Literal["zeros", "replicate"] = "zeros"
    num_phi: Annotated[int, Field(ge=1, le=100)] = 4
    phi_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _check(self) -> Self:
        for width in self.level_channels:
            _require(
                width % self.num_groups == 0,
                f"tokenizer.num_groups ({self.num_groups}) must divide every level's width, got {width}",
            )
        return self

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Width of each level, from high to low resolution."""
        return tuple(self.base_channels * m for m in self.channel_multipliers)

    @property
    def downsampling(self) -> int:
        """Pixels along one side of a token of the last scale."""
        factor: int = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
        return factor


@_raises_config_error("tokenizer")
@dataclass(frozen=True, config=_CHECKED)
class PatchTokenizerConfig:
    """An image tokenizer whose networks work on patches, one a token of the last scale, and its codebook.

    The encoder sees a patch and its neighbours alone; the decoder's tokens attend to each other, and end in
    convolutions on a finer map. See :mod:`star_model.networks.patch_tokenizer`.

    Args:
        kind: tells the kinds of image tokenizers apart in ``config.json``.
        vocab_size: codebook vectors ``V``.
        latent_channels: channels ``z`` of a codebook vector.
        patch_size: side of a patch in pixels.
        width: channels of a patch in encoder and decoder.
        encoder_blocks: blocks of the encoder: depthwise convolution and MLP.
        decoder_blocks: blocks of the decoder: depthwise convolution, self-attention and MLP.
        num_heads: heads of the decoder's self-attention.
        refine_scale: how many times finer the map is on which the decoder ends in convolutions.
        refine_channels: width of those convolutions.
        refine_blocks: residual blocks on that map.
        num_phi: phi convolutions shared by the scales.
        phi_ratio: weight of a phi convolution against its input.
    """

    kind: Literal["patch"] = field(default="patch", kw_only=True)
    vocab_size: Annotated[int, Field(ge=1, le=2**20)] = 4096
    latent_channels: Annotated[int, Field(ge=1, le=4096)] = 16
    patch_size: Annotated[int, Field(ge=1, le=256)] = 32
    width: Annotated[int, Field(ge=1, le=2**14)] = 512
    encoder_blocks: Annotated[int, Field(ge=1, le=100)] = 4
    decoder_blocks: Annotated[int, Field(ge=1, le=100)] = 8
    num_heads: Annotated[int, Field(ge=1, le=1000)] = 8
    refine_scale: Annotated[int, Field(ge=1, le=256)] = 4
    refine_channels: Annotated[int, Field(ge=1, le=4096)] = 128
    refine_blocks: Annotated[int, Field(ge=1, le=100)] = 2
    num_phi: Annotated[int, Field(ge=1, le=100)] = 4
    phi_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _check(self) -> Self:
        for divisor, whole in (("num_heads", "width"), ("refine_scale", "patch_size")):
            part, of = getattr(self, divisor), getattr(self, whole)
            _require(
                of % part == 0, f"tokenizer.{divisor} ({part}) must divide {whole} ({of}) exactly"
            )
        return self

    @property
    def padding_mode(self) -> Literal["replicate"]:
        """Padding of convolutions at the border."""
        return "replicate"

    @property
    def downsampling(self) -> int:
        """Pixels along one side of a token of the last scale."""
        return self.patch_size


ImageTokenizerConfig = TokenizerConfig | PatchTokenizerConfig
_TOKENIZERS: dict[str, type[ImageTokenizerConfig]] = {
    "convolutional": TokenizerConfig,
    "patch": PatchTokenizerConfig,
}


def _tokenizer_of_its_kind(data: Any) -> Any:
    """Build an image tokenizer's configuration from a JSON object, by its ``kind``; one that is built is kept.

    Raises:
        ValueError: naming the key that is unknown, missing, of the wrong type or out of range.
    """
    if isinstance(data, ImageTokenizerConfig):
        return data
    _require(isinstance(data, dict), f"tokenizer must be an object, got {reprlib.repr(data)}")
    kind = data.get("kind", "convolutional")
    known = ", ".join(_TOKENIZERS)
    _require(kind in list(_TOKENIZERS), f"tokenizer.kind must be one of {known}, got {kind!r}")
    try:
        return validate(_TOKENIZERS[kind], data)
    except ValidationError as error:
        raise ValueError(describe(error, _TOKENIZERS[kind], "tokenizer")) from error


@_raises_config_error("transformer")
@dataclass(frozen=True, config=_CHECKED)
class TransformerConfig:
    """The next-scale transformer. Heads are always 64 wide, so the width follows from their number.

    The defaults are STAR's; the fields that VAR changes are at the end.

    Args:
        depth: number of blocks.
        num_heads: attention heads; published models have one a block.
        text_dim: width of the text encoder's hidden states and of its pooled feature; 0 for a
            class-conditional model, whose blocks have no cross-attention.
        mlp_ratio: width of the feed-forward layer relative to the model's.
        rope_theta: base of the rotary frequencies.
        rope_norm: the position that the far edge of every scale is normalized to.
        cross_attention_rows: rows of a guidance pair that attend to a text of their own. ``conditional``: the
            prompt's cross-attention is added to both rows, as the published STAR checkpoints were trained;
            ``own``: each row uses its own text.
        num_classes: classes of a class-conditional model, 0 for a text-conditional one. The index after the
            last is the class of the unconditional row.
        positions: position embedding: ``rope`` rotates queries and keys, ``absolute`` adds a learnt vector for
            each position of each scale.
        place_features: add a linear map of the rotary table to the tokens. Rotation alone distinguishes positions
            only through attention, which a short training learns late; published models do without.
        adaptive_norm: scale, shift and gate every layer's output by the class or the pooled text feature (AdaLN),
            through a linear layer in each block or one that is shared.
        block_norm: norms around a block's layers: a LayerNorm before each, or a weighted RMSNorm before and after
            each, and over the text.
        feed_forward: ``gelu``: two linear layers; ``swiglu``: three without biases, one of which gates.
        qk_norm: normalisation of queries and keys: ``cosine`` gives each head the length 1 and a learnt temperature;
            ``layer`` is a LayerNorm over the full width.
        self_attention: what a token attends to: ``earlier_scales``: its own scale and all before it, whose keys and
            values are cached; ``own_scale``: its own scale alone, so that there is nothing to cache.
        pooled_dim: width of the text encoder's pooled feature; 0 if it is ``text_dim``.
        logit_norm: a LayerNorm before the head, or none. The tensors of a checkpoint do not tell which it was trained
            with; all published ones were trained with it.
        crop_condition: add a learnt multiple of a constant vector to what modulates a block; see
            :mod:`star_model.networks.crop_condition`.
    """

    depth: Annotated[int, Field(ge=1, le=1000)]
    num_heads: Annotated[int, Field(ge=1, le=1000)]
    text_dim: Annotated[int, Field(ge=0, le=2**16)] = 0
    mlp_ratio: Annotated[float, Field(gt=0, le=100)] = 4.0
    rope_theta: Annotated[float, Field(gt=0, le=1e12)] = 10000.0
    rope_norm: Annotated[float, Field(gt=0, le=1e6)] = 64.0
    cross_attention_rows: Literal["conditional", "own"] = "own"
    num_classes: Annotated[int, Field(ge=0)] = 0
    positions: Literal["rope", "absolute"] = "rope"
    place_features: bool = False
    adaptive_norm: Literal["none", "block", "shared"] = "none"
    block_norm: Literal["layer", "rms_sandwich"] = "layer"
    feed_forward: Literal["gelu", "swiglu"] = "gelu"
    qk_norm: Literal["cosine", "layer"] = "cosine"
    self_attention: Literal["earlier_scales", "own_scale"] = "earlier_scales"
    pooled_dim: Annotated[int, Field(ge=0, le=2**16)] = 0
    crop_condition: bool = False
    logit_norm: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require(
            (self.text_dim > 0) != (self.num_classes > 0),
            "one of transformer.text_dim (a text-conditional model) and transformer.num_classes (a "
            f"class-conditional one) must be positive, got {self.text_dim} and {self.num_classes}",
        )
        _require(
            self.num_classes <= IMAGENET_CLASSES,
            f"transformer.num_classes must be at most {IMAGENET_CLASSES}, those of ImageNet, got {self.num_classes}",
        )
        _require(
            self.positions == "rope" or not self.place_features,
            "transformer.place_features needs transformer.positions rope, whose table they are made of",
        )
        _require(
            self.text_dim > 0 or self.pooled_dim == 0,
            f"transformer.pooled_dim must be 0 in a class-conditional model, got {self.pooled_dim}",
        )
        _require(
            self.adaptive_norm == "block" or not self.crop_condition,
            "transformer.crop_condition needs transformer.adaptive_norm block, which it changes, "
            f"got {self.adaptive_norm}",
        )
        _require(
            self.logit_norm or self.adaptive_norm == "none",
            "transformer.logit_norm must be true unless transformer.adaptive_norm is none, "
            f"got {self.adaptive_norm}, which modulates it",
        )
        return self

    @property
    def width(self) -> int:
        """Channels ``C`` of a token."""
        return HEAD_DIM * self.num_heads

    @property
    def hidden_width(self) -> int:
        """Width of the feed-forward layer between its linear layers; rounded as the published models round it."""
        width = self.width * self.mlp_ratio
        return int(width + 1e-6) if self.feed_forward == "swiglu" else round(width)

    @property
    def pooled_width(self) -> int:
        """Width of the text encoder's pooled feature."""
        return self.pooled_dim or self.text_dim

    @property
    def text_rows(self) -> int:
        """Number of rows of a guidance pair that need text keys and values of their own."""
        return 1 if self.cross_attention_rows == "conditional" else 2

    @property
    def modulation_vectors(self) -> int:
        """Number of vectors that modulate the layers: six a block and two before the head, or 0."""
        return 0 if self.adaptive_norm == "none" else 6 * self.depth + 2


@_raises_config_error("text_encoder")
@dataclass(frozen=True, config=_CHECKED)
class TextEncoderConfig:
    """The frozen text encoder, or the class lookup that replaces it.

    Args:
        family: ``clip`` pools the end-of-text position; ``clip_pair`` joins the hidden states of two CLIP encoders and
            takes the second's pooled feature; ``sentence`` averages all positions and normalises; ``imagenet``
            takes the prompt for the name of an ImageNet class and looks up its number.
        max_tokens: number of positions a prompt is padded or cut to; 0 for ``imagenet``, which has none.
    """

    family: Literal["clip", "clip_pair", "sentence", "imagenet"] = "clip"
    max_tokens: Annotated[int, Field(ge=0, le=2**15)] = 77

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require(
            self.max_tokens == 0 if self.family == "imagenet" else self.max_tokens >= 2,
            "text_encoder.max_tokens must be at least 2, or 0 with text_encoder.family imagenet, "
            f"got {self.max_tokens} with {self.family}",
        )
        return self


@_raises_config_error("")
@dataclass(frozen=True, config=_CHECKED)
class ModelConfig:
    """A model's configuration: the content of ``config.json``, except the version of the format.

    Args:
        name: public name.
        patch_nums: side of each scale's token map; see :class:`star_model.scales.ScaleSchedule`.
        transformer, tokenizer, text_encoder: of its networks.
        sampling: sampling parameters of a request that gives none, chosen for each model by its scores.
    """

    name: str
    patch_nums: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(max_length=100)]
    transformer: TransformerConfig
    tokenizer: Annotated[ImageTokenizerConfig, BeforeValidator(_tokenizer_of_its_kind)] = field(
        default_factory=TokenizerConfig
    )
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    sampling: Sampling = field(default_factory=Sampling)

    @model_validator(mode="after")
    def _check(self) -> Self:
        family, classes = self.text_encoder.family, self.transformer.num_classes
        _require(
            (family == "imagenet") == (classes > 0),
            f"text_encoder.family {family} does not fit transformer.num_classes {classes}: "
            "imagenet is for class-conditional models, and for them alone",
        )
        tokens = self.schedule.num_tokens  # a ValueError if the sides are no schedule
        _require(
            tokens <= MAX_TOKENS,
            f"patch_nums must add up to at most {MAX_TOKENS} tokens an image, got {tokens}",
        )
        _require(
            self.image_size <= MAX_IMAGE_SIDE,
            f"patch_nums and tokenizer make images of {self.image_size} pixels a side; "
            f"at most {MAX_IMAGE_SIDE} are supported",
        )
        return self

    @cached_property
    def schedule(self) -> ScaleSchedule:
        return ScaleSchedule(self.patch_nums)

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values are kept for later scales."""
        own_scale = self.transformer.self_attention == "own_scale"
        return 0 if own_scale else self.schedule.cached_tokens

    def tokens_seen(self, scale: int) -> int:
        """Tokens that each token of ``scale`` attends to."""
        own_scale = self.transformer.self_attention == "own_scale"
        return self.schedule.lengths[scale] if own_scale else self.schedule.offsets[scale + 1]

    def is_guided(self, scale: int) -> bool:
        """True if ``scale`` computes both rows of a guidance pair, with the model's own sampling parameters."""
        s = self.sampling
        needless = self.transformer.self_attention == "own_scale" and scale < s.guidance_from
        return (
            s.guidance_scale > 0 and scale < len(self.schedule) - s.unguided_scales and not needless
        )

    @property
    def image_size(self) -> int:
        """Side of the (square) image in pixels."""
        return self.schedule.last_side * self.tokenizer.downsampling

    def memory_per_slot_bytes(self, bytes_per_value: int) -> int:
        """Bytes of one slot of the engine: keys and values of an image, and its text or class, in all layers.

        Args:
            bytes_per_value: 4 for float32, 2 for bfloat16 and float16.
        """
        t = self.transformer
        tokens = 2 * self.cached_tokens + t.text_rows * self.text_encoder.max_tokens
        return (2 * t.depth * tokens + 2 * t.modulation_vectors) * t.width * bytes_per_value

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; the inverse of :meth:`from_dict`."""
        data: dict[str, Any] = TypeAdapter(ModelConfig).dump_python(self, mode="json")
        return data

    @classmethod
    def from_dict(cls, data: Any) -> ModelConfig:
        """Build a configuration from parsed JSON.

        Raises:
            ConfigError: naming the key that is unknown, missing, of the wrong type or out of range.
        """
        try:
            return validate(cls, data)
        except ValidationError as error:
            raise ConfigError(describe(error, cls)) from error
