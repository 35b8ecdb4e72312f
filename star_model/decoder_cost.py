"""Cost of an image tokenizer's decoder by kind, computed from its configuration: operations, and bytes of its maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from star_model.config import (
    BitTokenizerConfig,
    ImageTokenizerConfig,
    PatchTokenizerConfig,
    TokenizerConfig,
)
from star_model.scales import Size


@dataclass(frozen=True)
class DecoderCost:
    """Cost of decoding one latent.

    Attributes:
        multiplications: in convolutions, linear layers and attention; each comes with an addition.
        map_values: values of the largest feature map.
        workspace_values: values alive at once at most, roughly: the largest terms only.
    """

    multiplications: int
    map_values: int
    workspace_values: int


def decoder_cost(config: ImageTokenizerConfig, size: Size) -> DecoderCost:
    """The cost of decoding a latent of ``size``: height and width, in positions."""
    return _COSTS[config.kind](config, size[0] * size[1])


def _convolutional(k: TokenizerConfig | BitTokenizerConfig, pixels: int) -> DecoderCost:
    widths = k.level_channels

    def block(inputs: int, outputs: int) -> int:  # weights of a residual block
        return 9 * outputs * (inputs + outputs) + (inputs * outputs if inputs != outputs else 0)

    def attention(tokens: int) -> int:  # over all positions
        return tokens * (4 * widths[-1] ** 2 + 2 * tokens * widths[-1]) if k.attention else 0

    total = pixels * 9 * k.latent_channels * widths[-1]
    if k.kind != "bits":  # the convolution between quantizer and decoder
        total += pixels * 9 * k.latent_channels**2
    total += pixels * 2 * block(widths[-1], widths[-1]) + attention(pixels)
    last = len(widths) - 1
    for i in reversed(range(len(widths))):
        above = widths[min(i + 1, last)]
        total += pixels * (block(above, widths[i]) + k.num_res_blocks * block(widths[i], widths[i]))
        total += (k.num_res_blocks + 1) * attention(pixels) if i == last else 0
        if i:
            pixels *= 4
            total += pixels * 9 * widths[i] ** 2
    total += pixels * 9 * widths[0] * 3 * k.patch_size**2
    # The first block at the highest resolution: its input, normalised, padded by copying, convolved.
    copies = 3 if k.padding_mode == "replicate" else 2
    channels = copies * widths[min(1, last)] + widths[0]
    return DecoderCost(total, pixels * widths[0], pixels * channels)


def _patch(k: PatchTokenizerConfig, tokens: int) -> DecoderCost:
    width, channels = k.width, k.refine_channels
    fine, pixels = tokens * k.refine_scale**2, (k.patch_size // k.refine_scale) ** 2
    # Depthwise convolution; query, key, value, output; MLP of four times the width; attention to all tokens.
    block = width * (9 + 4 * width + 8 * width + 2 * tokens)
    total = tokens * width * (k.latent_channels + k.refine_scale**2 * channels)
    total += tokens * k.decoder_blocks * block
    total += fine * 9 * channels * (2 * k.refine_blocks * channels + 3 * pixels)
    # A block's MLP: its input, normalised, the hidden layer before and after the activation. Or the second convolution
    # on the finer map: input of the block and of the convolution, normalised, padded by copying, convolved. Or the
    # image, before and after the pixel shuffle.
    workspace = max(tokens * width * 10, fine * channels * 5, fine * (channels + 6 * pixels))
    return DecoderCost(total, fine * channels, workspace)


_COSTS: dict[str, Callable[[Any, int], DecoderCost]] = {
    "convolutional": _convolutional,
    "patch": _patch,
    "bits": _convolutional,
}
"""By ``tokenizer.kind`` of the configuration."""
