"""Configuration of the image tokenizers: a frozen dataclass for each kind, validated when built."""

from __future__ import annotations

import reprlib
from dataclasses import field
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from star_model.config_checks import CHECKED, raises_config_error, require
from star_model.json_file import describe, validate


def _check_groups(widths: tuple[int, ...], groups: int) -> None:
    for width in widths:
        require(
            width % groups == 0,
            f"tokenizer.num_groups ({groups}) must divide every level's width, got {width}",
        )


class _Levels:
    """What configurations of convolutional networks share."""

    base_channels: int
    channel_multipliers: tuple[int, ...]

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Width of each level, from high to low resolution."""
        return tuple(self.base_channels * m for m in self.channel_multipliers)


class _OneIndex:
    """What configurations share whose tokens are each the index of one codebook vector."""

    @property
    def symbols(self) -> int:
        """Symbols of a token: one, the index of a codebook vector."""
        return 1

    @property
    def token_patch(self) -> int:
        """Positions of the latent along one side of a token of the last scale."""
        return 1


@raises_config_error("tokenizer")
@dataclass(frozen=True, config=CHECKED)
class TokenizerConfig(_Levels, _OneIndex):
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
        _check_groups(self.level_channels, self.num_groups)
        return self

    @property
    def downsampling(self) -> int:
        """Pixels along one side of a token of the last scale."""
        factor: int = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
        return factor


@raises_config_error("tokenizer")
@dataclass(frozen=True, config=CHECKED)
class PatchTokenizerConfig(_OneIndex):
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
            require(
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


@raises_config_error("tokenizer")
@dataclass(frozen=True, config=CHECKED)
class BitTokenizerConfig(_Levels):
    """A convolutional image tokenizer whose latent channels are rounded to bits; the defaults are Infinity's ``d32``.

    A token is the bits of ``token_patch`` x ``token_patch`` positions of the latent. There is no codebook: a bit stands
    for one of two values. See :class:`star_model.networks.bit_quantizer.BitQuantizer`.

    Args:
        kind: tells the kinds of image tokenizers apart in ``config.json``.
        latent_channels: bits ``d`` of a position of the latent.
        token_patch: positions along one side of a token.
        base_channels: channels of the highest resolution level.
        channel_multipliers: width of each level relative to ``base_channels``, from high to low resolution.
        num_res_blocks: residual blocks of an encoder level; decoder levels have one more.
        num_groups: groups of every GroupNorm.
    """

    kind: Literal["bits"] = field(default="bits", kw_only=True)
    latent_channels: Annotated[int, Field(ge=1, le=4096)] = 32
    token_patch: Annotated[int, Field(ge=1, le=16)] = 1
    base_channels: Annotated[int, Field(ge=1, le=4096)] = 128
    channel_multipliers: Annotated[
        tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=10)
    ] = (1, 2, 4, 4, 4)
    num_res_blocks: Annotated[int, Field(ge=1, le=16)] = 2
    num_groups: Annotated[int, Field(ge=1, le=4096)] = 32

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_groups(self.level_channels, self.num_groups)
        return self

    @property
    def downsampling(self) -> int:
        """Pixels along one side of a token of the last scale."""
        factor: int = self.token_patch * 2 ** (len(self.channel_multipliers) - 1)
        return factor

    @property
    def vocab_size(self) -> int:
        """Values of a symbol: a bit has two."""
        return 2

    @property
    def symbols(self) -> int:
        """Symbols of a token: its bits."""
        return self.latent_channels * self.token_patch**2

    @property
    def patch_size(self) -> int:
        """Side of the pixel block folded into channels before the first convolution: none."""
        return 1

    @property
    def attention(self) -> bool:
        """Self-attention at the lowest resolution: none."""
        return False

    @property
    def padding_mode(self) -> Literal["zeros"]:
        """Padding of the convolutions."""
        return "zeros"


ImageTokenizerConfig = TokenizerConfig | PatchTokenizerConfig | BitTokenizerConfig
_TOKENIZERS: dict[str, type[ImageTokenizerConfig]] = {
    "convolutional": TokenizerConfig,
    "patch": PatchTokenizerConfig,
    "bits": BitTokenizerConfig,
}


def tokenizer_of_its_kind(data: Any) -> Any:
    """Build an image tokenizer's configuration from a JSON object, by its ``kind``; one that is built is kept.

    Raises:
        ValueError: naming the key that is unknown, missing, of the wrong type or out of range.
    """
    if isinstance(data, ImageTokenizerConfig):
        return data
    require(isinstance(data, dict), f"tokenizer must be an object, got {reprlib.repr(data)}")
    kind = data.get("kind", "convolutional")
    known = ", ".join(_TOKENIZERS)
    require(kind in list(_TOKENIZERS), f"tokenizer.kind must be one of {known}, got {kind!r}")
    try:
        return validate(_TOKENIZERS[kind], data)
    except ValidationError as error:
        raise ValueError(describe(error, _TOKENIZERS[kind], "tokenizer")) from error
