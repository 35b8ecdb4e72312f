from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from star_model.config import TokenizerConfig
from star_model.families.registry import PRESETS
from star_model.networks.vqvae import VQVAE
from star_model.scales import ScaleSchedule
from tests.star_model.formula import fill
from tests.star_model.tiny import build_tiny_model

SCHEDULE = ScaleSchedule((1, 2, 4))
TINY = TokenizerConfig(
    vocab_size=32,
    latent_channels=4,
    base_channels=8,
    channel_multipliers=(1, 2),
    num_res_blocks=1,
    num_groups=4,
)


def build(**changes: Any) -> VQVAE:
    vqvae = VQVAE(replace(TINY, **changes), SCHEDULE)
    fill(vqvae, "vqvae")
    return vqvae.eval()


@torch.inference_mode()
@pytest.mark.parametrize("patch_size", [1, 2, 4])
@pytest.mark.parametrize("attention", [True, False])
def test_shapes(patch_size: int, attention: bool) -> None:
    vqvae = build(patch_size=patch_size, attention=attention)
    side = 4 * vqvae.config.downsampling
    assert side == 8 * patch_size
    image = torch.rand(2, 3, side, side) * 2 - 1
    assert vqvae.features(image).shape == (2, 4, 4, 4)
    tokens = vqvae.encode(image)
    assert [tuple(t.shape) for t in tokens] == [(2, 1), (2, 4), (2, 16)]
    decoded = vqvae.decode_tokens(tokens)
    assert decoded.shape == image.shape
    assert decoded.std() > 0.01
    assert vqvae.decode_tokens(tokens[:1]).shape == image.shape


@torch.inference_mode()
def test_images_are_clamped() -> None:
    decoded = build().decode(torch.randn(1, 4, 4, 4) * 100)
    assert decoded.min() == -1
    assert decoded.max() == 1


def test_attention_is_at_the_lowest_resolution_and_in_the_middle() -> None:
    def count(config: TokenizerConfig) -> int:
        with torch.device("meta"):
            vqvae = VQVAE(config, ScaleSchedule((1, 2)))
        return sum(type(m).__name__ == "SpatialAttention" for m in vqvae.modules())

    published = TokenizerConfig()
    assert count(published) == 2 + 1 + 3 + 1
    assert count(replace(published, attention=False)) == 0


def test_the_published_size() -> None:
    with torch.device("meta"):
        vqvae = VQVAE(TokenizerConfig(), PRESETS["star-512"].schedule)
    millions = sum(p.numel() for p in vqvae.parameters()) / 1e6
    assert millions == pytest.approx(108.95, abs=0.05)


@torch.inference_mode()
def test_without_attention_it_is_a_convolution() -> None:
    """Far from the border, moving the latent moves the image: so it can be trained on crops."""
    vqvae = build(attention=False, num_groups=1)
    for module in vqvae.modules():  # a norm looks at the whole map
        if isinstance(module, nn.GroupNorm):
            module.forward = torch.clone  # type: ignore[method-assign]
    latent = torch.randn(1, 4, 24, 24)
    moved = vqvae.decode(latent.roll(1, dims=3))
    torch.testing.assert_close(
        moved[..., 20:28, 20:28], vqvae.decode(latent)[..., 20:28, 18:26], atol=1e-3, rtol=1e-3
    )


@torch.inference_mode()
def test_padding_mode_matters_at_the_border() -> None:
    latent = torch.randn(1, 4, 4, 4)
    zeros, replicate = (build(padding_mode=mode).decode(latent) for mode in ("zeros", "replicate"))
    assert not torch.allclose(zeros, replicate)
    flat = torch.full((1, 4, 6, 6), 0.3)
    assert build(padding_mode="replicate").post_quant_conv(flat).std(dim=(2, 3)).max() < 1e-6
    assert build(padding_mode="zeros").post_quant_conv(flat).std(dim=(2, 3)).max() > 1e-3


@torch.inference_mode()
def test_a_decoder_in_half_precision_is_a_hair_off() -> None:
    model = build_tiny_model()
    f_hat = torch.randn(2, 8, 7, 7, generator=torch.Generator().manual_seed(0)) * 0.3
    exact = model.vqvae.decode(f_hat)
    model.vqvae.set_decoder_format(torch.bfloat16)
    half = model.vqvae.decode(f_hat)
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    assert (half - exact).square().mean() < 1e-3 * exact.var()
    assert {p.dtype for p in model.vqvae.encoder.parameters()} == {torch.float32}
