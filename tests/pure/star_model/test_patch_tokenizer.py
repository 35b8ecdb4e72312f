"""The image tokenizer that works on patches, in all that a model does with one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench_memory import Allocations
from server.commands.info import count_parameters
from star_model.checkpoints.native import load_model, read_config
from star_model.checkpoints.published import vqvae_sources
from star_model.config import ModelConfig, PatchTokenizerConfig, TransformerConfig
from star_model.cost import decode_work, network_bytes
from star_model.decoder_cost import decoder_cost
from star_model.engine.editing import make_edit
from star_model.engine.engine import Engine
from star_model.errors import CheckpointError, ConfigError
from star_model.families.registry import PRESETS
from star_model.model import StarModel
from star_model.networks.image_tokenizer import ImageTokenizer
from star_model.networks.patch_tokenizer import PatchTokenizer, to_grid, to_tokens
from star_model.networks.tokenizers import build_tokenizer
from star_model.networks.transformer import StarTransformer
from star_model.networks.vqvae import VQVAE
from star_model.scales import ScaleSchedule
from tests.star_model.formula import fill
from tests.star_model.tiny import TEXT_DIM, build_tiny_model, tiny_config, write_tiny_model

TINY = PatchTokenizerConfig(
    vocab_size=96,
    latent_channels=8,
    patch_size=8,
    width=16,
    encoder_blocks=2,
    decoder_blocks=2,
    num_heads=2,
    refine_scale=2,
    refine_channels=8,
    refine_blocks=2,
)
SCHEDULE = ScaleSchedule((1, 2, 4, 4))
FULL = replace(
    tiny_config(),
    patch_nums=(1, 2, 4, 8, 16, 16, 16),
    tokenizer=PatchTokenizerConfig(),
    transformer=TransformerConfig(depth=2, num_heads=2, text_dim=TEXT_DIM),
)


def patch_config() -> ModelConfig:
    return tiny_config(patch_nums=SCHEDULE.patch_nums, tokenizer=TINY)


@pytest.fixture
def model() -> StarModel:
    return build_tiny_model(patch_config())


def build(**changes: Any) -> PatchTokenizer:
    tokenizer = PatchTokenizer(replace(TINY, **changes), SCHEDULE)
    fill(tokenizer, "tokenizer")
    return tokenizer.eval()


def images(count: int, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


# ---- the network -------------------------------------------------------------------------------------------
@torch.inference_mode()
@pytest.mark.parametrize("patch_size", [2, 4, 8])
@pytest.mark.parametrize("refine_scale", [1, 2])
def test_shapes(patch_size: int, refine_scale: int) -> None:
    tokenizer = build(patch_size=patch_size, refine_scale=refine_scale)
    image = images(2, 4 * patch_size)
    assert tokenizer.features(image).shape == (2, 8, 4, 4)
    tokens = tokenizer.encode(image)
    assert [tuple(t.shape) for t in tokens] == [(2, 1), (2, 4), (2, 16), (2, 16)]
    decoded = tokenizer.decode_tokens(tokens)
    assert decoded.shape == image.shape
    assert decoded.std() > 0.01
    assert tokenizer.decode_tokens(tokens[:2]).shape == image.shape


@torch.inference_mode()
def test_features_have_unit_rms_over_channels() -> None:
    rms = build().features(images(2)).square().mean(1).sqrt()
    torch.testing.assert_close(rms, torch.ones(2, 4, 4))


@torch.inference_mode()
def test_the_encoder_knows_no_place() -> None:
    """What is on patches has the same features wherever it is."""
    encoder = build(encoder_blocks=1).encoder
    image = torch.zeros(1, 3, 64, 64)
    image[..., 16:24, 16:24] = images(1, 8)
    moved = image.roll((8, 24), dims=(2, 3))
    torch.testing.assert_close(encoder(moved), encoder(image).roll((1, 3), dims=(2, 3)))


@torch.inference_mode()
def test_the_decoder_looks_at_all_tokens() -> None:
    tokenizer = build()
    latent = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    other = latent.clone()
    other[..., 3, 3] += 1.0
    change = (tokenizer.paint(other) - tokenizer.paint(latent)).abs().amax(1)[0]
    assert change[:8, :8].max() > 1e-4
    assert change[24:, 24:].max() > change[:8, :8].max()


def trial_block(state: dict[str, Tensor], x: Tensor, heads: int, side: int) -> Tensor:
    """A block of the network that the default model's tokenizer was tried with."""
    b, n, d = x.shape
    grid = F.pad(x.transpose(1, 2).reshape(b, d, side, side), (1, 1, 1, 1), mode="replicate")
    local = F.conv2d(grid, state["depthwise.weight"], state["depthwise.bias"], groups=d)
    x = x + local.flatten(2).transpose(1, 2)
    if heads:
        norm = F.layer_norm(x, (d,), state["attention_norm.weight"], state["attention_norm.bias"])
        q, k, v = (norm @ state["qkv.weight"].T).view(b, n, 3, heads, d // heads).unbind(2)
        scores = torch.einsum("bnhc,bmhc->bhnm", q, k) * (d // heads) ** -0.5
        mixed = torch.einsum("bhnm,bmhc->bnhc", scores.softmax(-1), v).reshape(b, n, d)
        x = x + mixed @ state["attention_out.weight"].T
    norm = F.layer_norm(x, (d,), state["mlp_norm.weight"], state["mlp_norm.bias"])
    hidden = F.gelu(norm @ state["mlp_in.weight"].T + state["mlp_in.bias"])
    return x + hidden @ state["mlp_out.weight"].T + state["mlp_out.bias"]


@torch.inference_mode()
@pytest.mark.parametrize("heads", [0, 2])
def test_a_block_computes_what_its_formula_says(heads: int) -> None:
    tokenizer = build()
    block = (tokenizer.decoder if heads else tokenizer.encoder).blocks[1]
    x = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(2))
    expected = trial_block(dict(block.state_dict()), x, heads, 4)
    torch.testing.assert_close(to_tokens(block(to_grid(x, 4, 4))), expected, rtol=1e-4, atol=1e-5)


class TrialDecoder(nn.Module):
    """The decoder as it was tried, written out with the weights of ours."""

    def __init__(self, tokenizer: PatchTokenizer) -> None:
        super().__init__()
        self.ours = tokenizer.decoder

    def forward(self, latent: Tensor) -> Tensor:
        ours = self.ours
        h = ours.embed(latent.flatten(2).transpose(1, 2)) + ours.positions
        for block in ours.blocks:
            h = trial_block(dict(block.state_dict()), h, 2, 4)
        h = ours.expand(ours.norm(h)).transpose(1, 2).reshape(len(h), -1, 4, 4)
        h = F.pixel_shuffle(h, 2)
        for block in ours.refine:
            r = block.conv1(F.silu(F.group_norm(h, 1, block.norm1.weight, block.norm1.bias)))  # type: ignore[operator,union-attr,arg-type]
            h = h + block.conv2(F.silu(F.group_norm(r, 1, block.norm2.weight, block.norm2.bias)))  # type: ignore[operator,union-attr,arg-type]
        return F.pixel_shuffle(ours.conv_out(F.silu(h)), 4)


@torch.inference_mode()
def test_networks_equal_those_of_the_trial() -> None:
    tokenizer = build()
    x = images(2)
    patches = F.pixel_unshuffle(x, 8).flatten(2).transpose(1, 2)
    h = tokenizer.encoder.embed(patches)
    for block in tokenizer.encoder.blocks:
        h = trial_block(dict(block.state_dict()), h, 0, 4)
    f = tokenizer.encoder.project(tokenizer.encoder.norm(h))
    f = f * torch.rsqrt(f.square().mean(2, keepdim=True) + 1e-6)
    features = tokenizer.features(x)
    torch.testing.assert_close(
        features, f.transpose(1, 2).reshape(2, 8, 4, 4), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        tokenizer.paint(features), TrialDecoder(tokenizer)(features), rtol=1e-4, atol=1e-4
    )


@torch.inference_mode()
def test_half_precision_leaves_encoder_and_quantizer_alone(model: StarModel) -> None:
    tokens = model.vqvae.encode(images(2))
    exact = model.vqvae.decode_tokens(tokens)
    model.vqvae.set_decoder_format(torch.bfloat16)
    half = model.vqvae.decode_tokens(tokens)
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    assert (half - exact).square().mean() < 1e-3 * exact.var()
    again = model.vqvae.encode(images(2))
    assert all(torch.equal(a, b) for a, b in zip(tokens, again, strict=True))
    types = {name: p.dtype for name, p in model.vqvae.named_parameters()}
    assert {t for n, t in types.items() if not n.startswith("decoder.")} == {torch.float32}
    assert {t for n, t in types.items() if n.startswith("decoder.")} == {torch.bfloat16}


# ---- configuration -----------------------------------------------------------------------------------------
def test_the_kind_chooses_the_network() -> None:
    tokenizers: list[ImageTokenizer] = [build_tokenizer(c) for c in (tiny_config(), patch_config())]
    assert [type(t) for t in tokenizers] == [VQVAE, PatchTokenizer]


def test_the_kind_is_read_from_json_and_convolutional_when_absent() -> None:
    config = patch_config()
    data = config.to_dict()
    assert data["tokenizer"]["kind"] == "patch"
    assert ModelConfig.from_dict(data) == config
    assert config.image_size == 32
    old = tiny_config().to_dict()
    assert old["tokenizer"].pop("kind") == "convolutional"
    assert ModelConfig.from_dict(old) == tiny_config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "wavelet"}, r"tokenizer\.kind must be one of convolutional, patch, bits, got 'wavelet'"),
        ({"kind": ["patch"]}, r"tokenizer\.kind must be one of convolutional, patch, bits, got \['patch'\]"),
        ({"base_channels": 8}, r"unknown key tokenizer\.base_channels; known are decoder_blocks"),
        ({"num_heads": 3}, r"tokenizer\.num_heads \(3\) must divide width \(16\) exactly"),
        ({"refine_scale": 3}, r"tokenizer\.refine_scale \(3\) must divide patch_size \(8\) exactly"),
        ({"width": 0}, r"tokenizer\.width must be at least 1, got 0"),
        ({"decoder_blocks": 10**6}, r"tokenizer\.decoder_blocks must be at most 100"),
        ({"patch_size": "8"}, r"tokenizer\.patch_size must be a whole number, got '8'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    data = patch_config().to_dict()
    data["tokenizer"] |= changes
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(data)


def test_it_has_no_published_form() -> None:
    config = replace(PRESETS["star-512"], tokenizer=PatchTokenizerConfig(latent_channels=32))
    with pytest.raises(ConfigError, match="a patch tokenizer has no published form"):
        vqvae_sources(config)


# ---- cost --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("config", [patch_config(), FULL], ids=["tiny", "full"])
def test_operations_and_bytes(config: ModelConfig) -> None:
    size = config.latent_size()
    with torch.device("meta"):
        tokenizer = build_tokenizer(config)
        f_hat = torch.zeros(2, config.tokenizer.latent_channels, *size)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        tokenizer.decode(f_hat)
    assert decode_work(config, 2).flops == counter.get_total_flops()
    with torch.inference_mode(), Allocations() as allocations:
        tokenizer.paint(f_hat[:1])
    counted = 4 * decoder_cost(config.tokenizer, size).workspace_values
    assert counted == pytest.approx(allocations.peak, rel=0.25)


def test_parameters_and_their_bytes() -> None:
    with torch.device("meta"):
        transformer, tokenizer = StarTransformer(FULL), build_tokenizer(FULL)
    parameters = sum(p.numel() for p in tokenizer.parameters())
    decoder = sum(p.numel() for p in tokenizer.decoder.parameters())
    assert (round(parameters / 1e6, 1), round(decoder / 1e6, 1)) == (37.3, 27.2)
    assert count_parameters(FULL)[1] == parameters
    half = sum(p.numel() for p in transformer.parameters()) + decoder
    assert network_bytes(FULL, 2) == 2 * half + 4 * (parameters - decoder)


# ---- models ------------------------------------------------------------------------------------------------
def test_save_and_load(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "m", patch_nums=SCHEDULE.patch_nums, tokenizer=TINY)
    assert read_config(tmp_path / "m").tokenizer == TINY
    loaded = load_model(tmp_path / "m", device="cpu", dtype="float32", verify=True)
    expected = build_tiny_model(patch_config()).vqvae.state_dict()
    assert loaded.vqvae.state_dict().keys() == expected.keys()
    assert all(torch.equal(t, expected[n]) for n, t in loaded.vqvae.state_dict().items())


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "patch", patch_nums=SCHEDULE.patch_nums, tokenizer=TINY)
    write_tiny_model(tmp_path / "other")
    (tmp_path / "other/vqvae.safetensors").replace(tmp_path / "patch/vqvae.safetensors")
    with pytest.raises(CheckpointError, match=r"vqvae\.safetensors: tensor decoder\.\S+ .*missing"):
        load_model(tmp_path / "patch", device="cpu")


def paint(model: StarModel, seeds: list[int]) -> Tensor:
    engine = Engine(model, slots=len(seeds))
    sequences = [
        engine.prepare(model.encode_prompt("a red apple"), model.config.sampling, seed=seed)
        for seed in seeds
    ]
    while not sequences[0].done:
        engine.step(sequences)
        assert engine.preview(sequences).shape == (len(seeds), 32, 32, 3)
    return engine.finish(sequences)


def test_an_image_is_its_seeds_whatever_is_beside_it(model: StarModel) -> None:
    together = paint(model, [3, 4, 5])
    assert torch.equal(paint(model, [4])[0], together[1])
    assert not torch.equal(together[0], together[1])


def test_an_edit_keeps_what_is_outside_the_mask(model: StarModel) -> None:
    image = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(0)).byte()
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[8:24, 8:24] = True
    edit = make_edit(model, image, mask)
    again = make_edit(model, image, mask)
    assert all(torch.equal(a, b) for a, b in zip(edit.tokens, again.tokens, strict=True))
    engine = Engine(model, slots=1)
    sequence = engine.prepare(
        model.encode_prompt("an apple"), model.config.sampling, seed=1, edit=edit
    )
    while not sequence.done:
        engine.step([sequence])
    result = engine.finish([sequence])[0]
    assert torch.equal(result[~mask], image[~mask])
    assert not torch.equal(result[mask], image[mask])
