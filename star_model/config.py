"""Configuration of a model: frozen dataclasses that are validated when built.

A native model directory stores :class:`ModelConfig` as ``config.json``; see :mod:`star_model.checkpoints.native`. The
published configurations are in :mod:`star_model.families`. Upper bounds are far above any model there is: they refuse a
hostile file before anything is allocated for it.
"""

from __future__ import annotations

from dataclasses import field
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from star_model.config_checks import CHECKED, raises_config_error, require
from star_model.errors import ConfigError
from star_model.guidance import GuidanceKind, guided_scales
from star_model.json_file import describe, validate
from star_model.sampling import Sampling
from star_model.scales import ScaleSchedule
from star_model.tokenizer_config import (
    BitTokenizerConfig,
    ImageTokenizerConfig,
    PatchTokenizerConfig,
    TokenizerConfig,
    tokenizer_of_its_kind,
)

__all__ = [
    "BitTokenizerConfig",
    "ImageTokenizerConfig",
    "ModelConfig",
    "PatchTokenizerConfig",
    "TextEncoderConfig",
    "TokenizerConfig",
    "TransformerConfig",
]

KEPT_TEXTS = 4
"""Texts whose keys and values an engine keeps: the empty prompt's, and those of the last requests."""
IMAGENET_CLASSES = 1000
MAX_IMAGE_SIDE = 8192
"""In pixels."""
MAX_TOKENS = 2**18
"""Of one image, all scales together."""

_Side = Annotated[int, Field(ge=1, le=1024)]
_MapSize = tuple[_Side, _Side]
"""Height and width of a token map."""


@raises_config_error("transformer")
@dataclass(frozen=True, config=CHECKED)
class TransformerConfig:
    """The next-scale transformer. Its width follows from the number of its heads and theirs.

    The defaults are STAR's; the fields that other families change are at the end.

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
        unguided_row: row of a guidance pair that goes on where guidance ends, at the scales that ``unguided_scales``
            counts, with a text of its own.
        num_classes: classes of a class-conditional model, 0 for a text-conditional one. The index after the
            last is the class of the unconditional row.
        positions: position embedding: ``rope`` and ``rope_grid`` rotate queries and keys, by positions relative to
            the scale's size or on a grid, see :mod:`star_model.networks.rope`; ``absolute`` adds a learnt vector for
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
        head_dim: width of an attention head.
        cross_attention_norm: norm before cross-attention: ``block``: as ``block_norm`` says; ``affine``: a LayerNorm
            with a learnt weight and bias.
        cross_qk_norm: normalisation of queries and keys in cross-attention: as ``qk_norm`` says, or none.
        refiner_heads: heads of the attention that pools the text; 0 takes the text encoder's pooled feature. See
            :mod:`star_model.networks.text_refiner`.
        scale_embeddings: rows of the table of scale embeddings; 0 is one for each scale.
    """

    depth: Annotated[int, Field(ge=1, le=1000)]
    num_heads: Annotated[int, Field(ge=1, le=1000)]
    text_dim: Annotated[int, Field(ge=0, le=2**16)] = 0
    mlp_ratio: Annotated[float, Field(gt=0, le=100)] = 4.0
    rope_theta: Annotated[float, Field(gt=0, le=1e12)] = 10000.0
    rope_norm: Annotated[float, Field(gt=0, le=1e6)] = 64.0
    cross_attention_rows: Literal["conditional", "own"] = "own"
    unguided_row: Literal["conditional", "unconditional"] = "conditional"
    num_classes: Annotated[int, Field(ge=0)] = 0
    positions: Literal["rope", "rope_grid", "absolute"] = "rope"
    place_features: bool = False
    adaptive_norm: Literal["none", "block", "shared"] = "none"
    block_norm: Literal["layer", "rms_sandwich"] = "layer"
    feed_forward: Literal["gelu", "swiglu"] = "gelu"
    qk_norm: Literal["cosine", "layer"] = "cosine"
    self_attention: Literal["earlier_scales", "own_scale"] = "earlier_scales"
    pooled_dim: Annotated[int, Field(ge=0, le=2**16)] = 0
    crop_condition: bool = False
    logit_norm: bool = True
    head_dim: Annotated[int, Field(ge=4, le=1024, multiple_of=4)] = 64
    cross_attention_norm: Literal["block", "affine"] = "block"
    cross_qk_norm: Literal["qk_norm", "none"] = "qk_norm"
    refiner_heads: Annotated[int, Field(ge=0, le=1000)] = 0
    scale_embeddings: Annotated[int, Field(ge=0, le=1000)] = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        require(
            (self.text_dim > 0) != (self.num_classes > 0),
            "one of transformer.text_dim (a text-conditional model) and transformer.num_classes (a "
            f"class-conditional one) must be positive, got {self.text_dim} and {self.num_classes}",
        )
        require(
            self.num_classes <= IMAGENET_CLASSES,
            f"transformer.num_classes must be at most {IMAGENET_CLASSES}, those of ImageNet, got {self.num_classes}",
        )
        require(
            self.positions != "absolute" or not self.place_features,
            "transformer.place_features needs transformer.positions rope, whose table they are made of",
        )
        require(
            self.text_dim > 0 or self.pooled_dim == 0,
            f"transformer.pooled_dim must be 0 in a class-conditional model, got {self.pooled_dim}",
        )
        require(
            self.adaptive_norm == "block" or not self.crop_condition,
            "transformer.crop_condition needs transformer.adaptive_norm block, which it changes, "
            f"got {self.adaptive_norm}",
        )
        require(
            self.logit_norm or self.adaptive_norm == "none",
            "transformer.logit_norm must be true unless transformer.adaptive_norm is none, "
            f"got {self.adaptive_norm}, which modulates it",
        )
        require(
            self.text_dim > 0 or self.refiner_heads == 0,
            "transformer.refiner_heads must be 0 in a class-conditional model, which has no text, "
            f"got {self.refiner_heads}",
        )
        require(
            self.refiner_heads == 0 or self.width % self.refiner_heads == 0,
            f"transformer.refiner_heads ({self.refiner_heads}) must divide the width ({self.width}) exactly",
        )
        return self

    @property
    def width(self) -> int:
        """Channels ``C`` of a token."""
        return self.head_dim * self.num_heads

    @property
    def hidden_width(self) -> int:
        """Width of the feed-forward layer between its linear layers; rounded as the published models round it."""
        width = self.width * self.mlp_ratio
        return int(width + 1e-6) if self.feed_forward == "swiglu" else round(width)

    @property
    def pooled_width(self) -> int:
        """Width of the text encoder's pooled feature; 0 if the transformer pools the text itself."""
        return 0 if self.refiner_heads else self.pooled_dim or self.text_dim

    @property
    def cross_attention_width(self) -> int:
        """Width of what cross-attention attends to."""
        return self.width if self.refiner_heads else self.text_dim

    @property
    def text_rows(self) -> int:
        """Number of rows of a guidance pair that need text keys and values of their own."""
        return 1 if self.cross_attention_rows == "conditional" else 2

    @property
    def modulation_vectors(self) -> int:
        """Number of vectors that modulate the layers: six a block and two before the head, or 0."""
        return 0 if self.adaptive_norm == "none" else 6 * self.depth + 2


@raises_config_error("text_encoder")
@dataclass(frozen=True, config=CHECKED)
class TextEncoderConfig:
    """The frozen text encoder, or the class lookup that replaces it.

    Args:
        family: ``clip`` pools the end-of-text position; ``clip_pair`` joins the hidden states of two CLIP encoders and
            takes the second's pooled feature; ``sentence`` averages all positions and normalises; ``t5`` pools
            nothing, and does not pad; ``imagenet`` takes the prompt for the name of an ImageNet class and looks up
            its number.
        max_tokens: number of positions a prompt is padded or cut to; 0 for ``imagenet``, which has none.
    """

    family: Literal["clip", "clip_pair", "sentence", "t5", "imagenet"] = "clip"
    max_tokens: Annotated[int, Field(ge=0, le=2**15)] = 77

    @model_validator(mode="after")
    def _check(self) -> Self:
        require(
            self.max_tokens == 0 if self.family == "imagenet" else self.max_tokens >= 2,
            "text_encoder.max_tokens must be at least 2, or 0 with text_encoder.family imagenet, "
            f"got {self.max_tokens} with {self.family}",
        )
        return self


@raises_config_error("")
@dataclass(frozen=True, config=CHECKED)
class ModelConfig:
    """A model's configuration: the content of ``config.json``, except the version of the format.

    Args:
        name: public name.
        patch_nums: side of each scale's token map; see :class:`star_model.scales.ScaleSchedule`.
        transformer, tokenizer, text_encoder: of its networks.
        sampling: sampling parameters of a request that gives none, chosen for each model by its scores.
        guidance: how the strength of guidance follows from ``guidance_scale``; see :mod:`star_model.guidance`.
        other_shapes: heights and widths of the token maps of the other shapes of images that it makes; the first
            shape, number 0, is the square one of ``patch_nums``.
        rope_grids: for each shape, the height and width of the grid of ``rope_grid`` positions; if there are none, it
            is the last token map's.
    """

    name: str
    patch_nums: Annotated[tuple[_Side, ...], Field(max_length=100)]
    transformer: TransformerConfig
    tokenizer: Annotated[ImageTokenizerConfig, BeforeValidator(tokenizer_of_its_kind)] = field(
        default_factory=TokenizerConfig
    )
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    sampling: Sampling = field(default_factory=Sampling)
    guidance: GuidanceKind = "rising"
    other_shapes: Annotated[
        tuple[Annotated[tuple[_MapSize, ...], Field(max_length=100)], ...], Field(max_length=100)
    ] = ()
    rope_grids: Annotated[tuple[_MapSize, ...], Field(max_length=101)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        family, classes = self.text_encoder.family, self.transformer.num_classes
        require(
            (family == "imagenet") == (classes > 0),
            f"text_encoder.family {family} does not fit transformer.num_classes {classes}: "
            "imagenet is for class-conditional models, and for them alone",
        )
        for schedule in self.schedules:  # a ValueError if the sizes are no schedule
            self._check_shape(schedule)
        shapes = len(self.schedules)
        require(
            shapes == 1
            or (
                self.tokenizer.kind != "patch"
                and self.transformer.positions != "absolute"
                and not self.transformer.place_features
            ),
            "other_shapes need positions and an image tokenizer that fit any size: "
            "neither transformer.positions absolute, nor transformer.place_features, nor tokenizer.kind patch",
        )
        require(
            len(self.rope_grids) in (0, shapes),
            f"rope_grids must be one for each of the {shapes} shapes, or none, got {len(self.rope_grids)}",
        )
        embeddings = self.transformer.scale_embeddings
        require(
            embeddings == 0 or embeddings >= len(self.schedule),
            f"transformer.scale_embeddings must be at least the {len(self.schedule)} scales, got {embeddings}",
        )
        return self

    def _check_shape(self, schedule: ScaleSchedule) -> None:
        require(
            len(schedule) == len(self.schedule),
            f"other_shapes must have as many scales as patch_nums, {len(self.schedule)}, got {len(schedule)}",
        )
        require(
            schedule.num_tokens <= MAX_TOKENS,
            f"patch_nums must add up to at most {MAX_TOKENS} tokens an image, got {schedule.num_tokens}",
        )
        side = max(schedule.last_size) * self.tokenizer.downsampling
        require(
            side <= MAX_IMAGE_SIDE,
            f"patch_nums and tokenizer make images of {side} pixels a side; "
            f"at most {MAX_IMAGE_SIDE} are supported",
        )

    @cached_property
    def schedules(self) -> tuple[ScaleSchedule, ...]:
        """The token maps of each shape of images."""
        return (ScaleSchedule(self.patch_nums), *map(ScaleSchedule, self.other_shapes))

    @property
    def schedule(self) -> ScaleSchedule:
        """The token maps of the first shape."""
        return self.schedules[0]

    @cached_property
    def largest_schedule(self) -> ScaleSchedule:
        """The token maps of the shape with the most tokens."""
        return max(self.schedules, key=lambda schedule: schedule.num_tokens)

    @cached_property
    def cached_tokens(self) -> int:
        """Most tokens of an image whose keys and values are kept for later scales."""
        if self.transformer.self_attention == "own_scale":
            return 0
        return max(schedule.cached_tokens for schedule in self.schedules)

    def tokens_seen(self, scale: int, shape: int = 0) -> int:
        """Tokens that each token of ``scale`` attends to."""
        schedule = self.schedules[shape]
        own_scale = self.transformer.self_attention == "own_scale"
        return schedule.lengths[scale] if own_scale else schedule.offsets[scale + 1]

    @cached_property
    def guided_scales(self) -> tuple[bool, ...]:
        """Whether each scale computes both rows of a guidance pair, with the model's own sampling parameters."""
        return self.guided_scales_of(self.sampling)

    def guided_scales_of(self, sampling: Sampling) -> tuple[bool, ...]:
        """Whether each scale computes both rows of a guidance pair, with the parameters ``sampling``."""
        own_scale = self.transformer.self_attention == "own_scale"
        return guided_scales(sampling, self.guidance, len(self.schedule), own_scale=own_scale)

    def latent_size(self, shape: int = 0) -> tuple[int, int]:
        """Height and width of the latent of an image."""
        height, width = self.schedules[shape].last_size
        return height * self.tokenizer.token_patch, width * self.tokenizer.token_patch

    def size(self, shape: int = 0) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        height, width = self.schedules[shape].last_size
        return height * self.tokenizer.downsampling, width * self.tokenizer.downsampling

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the images of each shape, in pixels."""
        return tuple(self.size(shape) for shape in range(len(self.schedules)))

    @property
    def image_size(self) -> int:
        """Side of the square image, the first shape, in pixels."""
        return self.size()[0]

    @property
    def token_logits(self) -> int:
        """Logits of a token: one for each value of each of its symbols."""
        return self.tokenizer.symbols * self.tokenizer.vocab_size

    @property
    def token_channels(self) -> int:
        """Latent channels of a token."""
        return self.tokenizer.latent_channels * self.tokenizer.token_patch**2

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
