"""An image tokenizer that works on patches: one patch of pixels is one token of the last scale.

The encoder has neither attention nor positions: it sees a patch and its neighbours, so that a drawing whose corners
lie on patches has the same latent wherever it is. The decoder's tokens attend to each other and know their positions;
it ends in convolutions on a finer map, so that no seams between patches are left.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_model.config import PatchTokenizerConfig
from star_model.networks.image_tokenizer import ImageTokenizer
from star_model.networks.linear import GeluLinear, Linear
from star_model.networks.quantizer import MultiScaleQuantizer
from star_model.scales import ScaleSchedule

MLP_RATIO = 4


def conv3x3(in_channels: int, out_channels: int, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the side; the border is repeated beyond itself."""
    return nn.Conv2d(
        in_channels, out_channels, 3, padding=1, groups=groups, padding_mode="replicate"
    )


def to_tokens(grid: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C)."""
    return grid.flatten(2).transpose(1, 2)


def to_grid(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, h * w, C) -> (B, C, h, w)."""
    return torch.unflatten(tokens.transpose(1, 2), 2, (height, width))


class PatchBlock(nn.Module):
    """Depthwise 3x3 convolution, self-attention if there are heads, MLP, each residual: (B, C, h, w) -> the same.

    Args:
        width: channels ``C``.
        num_heads: of the self-attention; 0 is none.
    """

    def __init__(self, width: int, num_heads: int = 0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.depthwise = conv3x3(width, width, groups=width)
        if num_heads:
            self.attention_norm = nn.LayerNorm(width)
            self.qkv = Linear(width, 3 * width, bias=False)
            self.attention_out = Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = GeluLinear(width, MLP_RATIO * width, approximate="none")
        self.mlp_out = Linear(MLP_RATIO * width, width)

    def forward(self, grid: Tensor) -> Tensor:
        side = grid.shape[-2:]
        x = to_tokens(grid + self.depthwise(grid))  # (B, N, C)
        if self.num_heads:
            x = x + self.attend(self.attention_norm(x))
        x = x + self.mlp_out(self.mlp_in(self.mlp_norm(x)))
        return to_grid(x, *side)

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention over all N tokens: (B, N, C) -> (B, N, C)."""
        qkv = torch.unflatten(self.qkv(x), 2, (3, self.num_heads, -1))  # (B, N, 3, H, C / H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out: Tensor = self.attention_out(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )
        return out


class PatchEncoder(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> features (B, z, H / patch, W / patch) of unit RMS over the channels."""

    def __init__(self, config: PatchTokenizerConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.embed = Linear(3 * config.patch_size**2, config.width)
        self.blocks = nn.Sequential(
            *(PatchBlock(config.width) for _ in range(config.encoder_blocks))
        )
        self.norm = nn.LayerNorm(config.width)
        self.project = Linear(config.width, config.latent_channels)

    def forward(self, image: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(image, self.patch_size)  # (B, 3 * patch^2, h, w)
        side = patches.shape[-2:]
        h = self.blocks(to_grid(self.embed(to_tokens(patches)), *side))
        features = self.project(self.norm(to_tokens(h))).float()
        features = features * torch.rsqrt(features.square().mean(2, keepdim=True) + 1e-6)
        return to_grid(features, *side)


class RefineBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut: (B, C, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(1, channels), conv3x3(channels, channels)
        self.norm2, self.conv2 = nn.GroupNorm(1, channels), conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        out: Tensor = x + self.conv2(F.silu(self.norm2(h), inplace=True))
        return out


class PatchDecoder(nn.Module):
    """Latents (B, z, P, P) -> images (B, 3, patch * P, patch * P), nominally in [-1, 1] but not clamped."""

    def __init__(self, config: PatchTokenizerConfig, side: int) -> None:
        super().__init__()
        self.side, self.refine_scale = side, config.refine_scale
        self.pixels = config.patch_size // config.refine_scale
        channels = config.refine_channels
        self.embed = Linear(config.latent_channels, config.width)
        positions = torch.empty(1, side**2, config.width)
        self.positions = nn.Parameter(nn.init.normal_(positions, std=0.02))
        self.blocks = nn.Sequential(
            *(PatchBlock(config.width, config.num_heads) for _ in range(config.decoder_blocks))
        )
        self.norm = nn.LayerNorm(config.width)
        self.expand = Linear(config.width, config.refine_scale**2 * channels)
        self.refine = nn.Sequential(*(RefineBlock(channels) for _ in range(config.refine_blocks)))
        self.conv_out = conv3x3(channels, 3 * self.pixels**2)

    def forward(self, latent: Tensor) -> Tensor:
        h = self.embed(to_tokens(latent)) + self.positions  # (B, P * P, C)
        h = to_tokens(self.blocks(to_grid(h, self.side, self.side)))
        h = to_grid(self.expand(self.norm(h)), self.side, self.side)
        h = F.pixel_shuffle(h, self.refine_scale)  # (B, c, P * scale, P * scale)
        h = self.refine(h)
        return F.pixel_shuffle(self.conv_out(F.silu(h)), self.pixels)


class PatchTokenizer(ImageTokenizer):
    """The image tokenizer whose two networks work on patches."""

    encoder: PatchEncoder
    decoder: PatchDecoder

    quantizer: MultiScaleQuantizer

    def __init__(self, config: PatchTokenizerConfig, schedule: ScaleSchedule) -> None:
        super().__init__(config, MultiScaleQuantizer(config, schedule))
        self.encoder = PatchEncoder(config)
        self.decoder = PatchDecoder(config, schedule.last_size[0])
