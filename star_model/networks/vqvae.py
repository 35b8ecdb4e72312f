"""The VQGAN-type autoencoder around the quantizer: image <-> latent <-> token maps (VAR, section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from star_model.config import BitTokenizerConfig, TokenizerConfig
from star_model.networks.bit_quantizer import BitQuantizer
from star_model.networks.image_tokenizer import ImageTokenizer
from star_model.networks.quantizer import MultiScaleQuantizer
from star_model.scales import ScaleSchedule

ConvolutionalConfig = TokenizerConfig | BitTokenizerConfig


def conv3x3(config: ConvolutionalConfig, in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps height and width."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode=config.padding_mode)


def group_norm(config: ConvolutionalConfig, channels: int) -> nn.GroupNorm:
    """A GroupNorm of the configured number of groups."""
    return nn.GroupNorm(config.num_groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two normalised convolutions around a shortcut: (B, C_in, h, w) -> (B, C_out, h, w)."""

    def __init__(self, config: ConvolutionalConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(config, in_channels)
        self.conv1 = conv3x3(config, in_channels, out_channels)
        self.norm2 = group_norm(config, out_channels)
        self.conv2 = conv3x3(config, out_channels, out_channels)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        out: Tensor = self.shortcut(x) + h
        return out


class SpatialAttention(nn.Module):
    """Single-head attention over all positions of a feature map: (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, config: ConvolutionalConfig, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(config, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # (B, h * w, C) each
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        h = F.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)).squeeze(
            1
        )
        out: Tensor = x + self.proj(h.transpose(1, 2).reshape(x.shape))
        return out


class Downsample(nn.Module):
    """Strided convolution that halves the side; padded on the right and bottom only."""

    def __init__(self, config: ConvolutionalConfig, channels: int) -> None:
        super().__init__()
        self.padding_mode = "constant" if config.padding_mode == "zeros" else config.padding_mode
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1), mode=self.padding_mode))
        return out


class Upsample(nn.Module):
    """Nearest-neighbour doubling of the side, then a convolution."""

    def __init__(self, config: ConvolutionalConfig, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(config, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return out


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention if asked, then a change of resolution."""

    def __init__(
        self,
        config: ConvolutionalConfig,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        *,
        attention: bool,
        resample: nn.Module | None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(config, in_channels if i == 0 else out_channels, out_channels)
            for i in range(num_blocks)
        )
        self.attentions = nn.ModuleList(
            SpatialAttention(config, out_channels) for _ in range(num_blocks if attention else 0)
        )
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x)
            if self.attentions:
                x = self.attentions[i](x)
        return x if self.resample is None else self.resample(x)


def middle(config: ConvolutionalConfig, channels: int) -> nn.Sequential:
    """The blocks at the lowest resolution, between encoder or decoder levels and the latent."""
    attention = [SpatialAttention(config, channels)] if config.attention else []
    return nn.Sequential(
        ResidualBlock(config, channels, channels),
        *attention,
        ResidualBlock(config, channels, channels),
    )


class Encoder(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> features (B, z, H / f, W / f), f the downsampling factor."""

    def __init__(self, config: ConvolutionalConfig) -> None:
        super().__init__()
        widths = config.level_channels
        last = len(widths) - 1
        self.unshuffle = nn.PixelUnshuffle(config.patch_size)
        self.conv_in = conv3x3(config, 3 * config.patch_size**2, widths[0])
        self.levels = nn.Sequential(
            *(
                Level(
                    config,
                    widths[max(i - 1, 0)],
                    width,
                    config.num_res_blocks,
                    attention=config.attention and i == last,
                    resample=Downsample(config, width) if i != last else None,
                )
                for i, width in enumerate(widths)
            )
        )
        self.middle = middle(config, widths[-1])
        self.norm_out = group_norm(config, widths[-1])
        self.conv_out = conv3x3(config, widths[-1], config.latent_channels)

    def forward(self, image: Tensor) -> Tensor:
        h = self.middle(self.levels(self.conv_in(self.unshuffle(image))))
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out


class Decoder(nn.Module):
    """Latents (B, z, h, w) -> images (B, 3, f * h, f * w), nominally in [-1, 1] but not clamped."""

    def __init__(self, config: ConvolutionalConfig) -> None:
        super().__init__()
        widths = config.level_channels
        last = len(widths) - 1
        self.conv_in = conv3x3(config, config.latent_channels, widths[-1])
        self.middle = middle(config, widths[-1])
        self.levels = nn.Sequential(
            *(
                Level(
                    config,
                    widths[min(i + 1, last)],
                    widths[i],
                    config.num_res_blocks + 1,
                    attention=config.attention and i == last,
                    resample=Upsample(config, widths[i]) if i != 0 else None,
                )
                for i in reversed(range(len(widths)))
            )
        )
        self.norm_out = group_norm(config, widths[0])
        self.conv_out = conv3x3(config, widths[0], 3 * config.patch_size**2)
        self.shuffle = nn.PixelShuffle(config.patch_size)

    def forward(self, latent: Tensor) -> Tensor:
        h = self.levels(self.middle(self.conv_in(latent)))
        out: Tensor = self.shuffle(self.conv_out(F.silu(self.norm_out(h))))
        return out


class VQVAE(ImageTokenizer):
    """The convolutional image tokenizer; the published models use it."""

    encoder: Encoder
    decoder: Decoder

    quantizer: MultiScaleQuantizer

    def __init__(self, config: TokenizerConfig, *schedules: ScaleSchedule) -> None:
        super().__init__(config, MultiScaleQuantizer(config, *schedules))
        self.encoder = Encoder(config)
        self.quant_conv = conv3x3(config, config.latent_channels, config.latent_channels)
        self.post_quant_conv = conv3x3(config, config.latent_channels, config.latent_channels)
        self.decoder = Decoder(config)

    def features(self, image: Tensor) -> Tensor:
        out: Tensor = self.quant_conv(self.encoder(image))
        return out

    def paint(self, latent: Tensor) -> Tensor:
        image: Tensor = self.decoder(self.post_quant_conv(latent))
        return image

    @property
    def decoding_modules(self) -> tuple[nn.Module, ...]:
        return self.post_quant_conv, self.decoder


class BitAutoencoder(ImageTokenizer):
    """The convolutional image tokenizer of Infinity: the same networks around bits, without convolutions between."""

    encoder: Encoder
    decoder: Decoder
    quantizer: BitQuantizer

    def __init__(self, config: BitTokenizerConfig, *schedules: ScaleSchedule) -> None:
        super().__init__(config, BitQuantizer(config, *schedules))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
