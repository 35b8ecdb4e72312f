"""The recorded Switti models: guidance on and off by scale, the mixture of tokens, the crop condition, the presets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from star_model.checkpoints.int8 import quantize_state
from star_model.checkpoints.native import load_model
from star_model.checkpoints.published import convert_published
from star_model.engine import token_sampler
from star_model.engine.candidates import Candidates, candidates
from star_model.engine.engine import Engine, Mode
from star_model.engine.mixture import gumbel_noise
from star_model.engine.sequence import ImageSequence
from star_model.families.registry import PRESETS
from star_model.families.switti import transformer_config
from star_model.model import StarModel
from star_model.networks.text_encoder import TextConditioning
from star_model.networks.transformer import StarTransformer
from star_model.sampling import Sampling
from tests.star_model import golden
from tests.star_model.golden import Golden
from tests.star_model.recordings import Recordings

SEED = 11
"""Of the recorded image; others have other noise."""


@pytest.fixture(scope="module", params=[golden.SWITTI, golden.SWITTI_AR], ids=lambda g: g.name)
def switti(request: pytest.FixtureRequest) -> Golden:
    found: Golden = request.param
    return found


@pytest.fixture(scope="module")
def model(switti: Golden, recordings: Recordings) -> StarModel:
    """With the recorded text features."""
    return recordings.model(switti)


@pytest.fixture
def recorded_noise(switti: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = switti.config.schedule.offsets

    def noise(seed: int, first: int, count: int, vocab: int, device: torch.device) -> Tensor:
        if seed != SEED:
            return gumbel_noise(seed, first, count, vocab, device)
        return switti.tensors[f"smooth.noise.{offsets.index(first)}"][0]

    monkeypatch.setattr(token_sampler, "gumbel_noise", noise)


def prepare(engine: Engine, prompt: str, sampling: Sampling, seed: int) -> ImageSequence:
    (text,) = engine.model.text_encoder.encode([prompt])
    return engine.prepare(text, sampling, seed=seed)


def assert_recorded(
    switti: Golden, run: str, sequence: ImageSequence, latents: list[Tensor]
) -> None:
    found = switti.tensors
    for scale, (tokens, latent) in enumerate(zip(sequence.tokens, latents, strict=True)):
        if f"{run}.tokens.{scale}" in found:
            assert tokens.tolist() == found[f"{run}.tokens.{scale}"][0].tolist(), f"scale {scale}"
        atol = 1e-3 if run == "smooth" else 1e-4
        torch.testing.assert_close(latent, found[f"{run}.f_hat.{scale}"][0], atol=atol, rtol=0)


@pytest.mark.usefixtures("recorded_noise")
@pytest.mark.parametrize("run", ["generate", "unguided", "smooth"])
def test_alone(switti: Golden, model: StarModel, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model, slots=1)
    logits: list[Tensor] = []
    draw = candidates

    def spy(rows: Tensor, *, top_k: int, top_p: Tensor | None) -> Candidates:
        logits.append(rows)
        return draw(rows, top_k=top_k, top_p=top_p)

    monkeypatch.setattr(token_sampler, "candidates", spy)
    sequence = prepare(engine, golden.RECORDED_PROMPT, switti.runs[run], SEED)
    latents = []
    while not sequence.done:
        engine.step([sequence])
        latents.append(sequence.f_hat)
    assert_recorded(switti, run, sequence, latents)
    compared = [s for s in range(6) if f"{run}.logits.{s}" in switti.tensors]
    assert len(compared) == {"generate": 6, "unguided": 3, "smooth": 0}[run]
    for scale in compared:
        expected = switti.tensors[f"{run}.logits.{scale}"]
        torch.testing.assert_close(logits[scale], expected, atol=1e-3, rtol=0)
    image = switti.tensors[f"{run}.image"].float()
    decoded = (model.decode(sequence.f_hat[None]) + 1) / 2
    torch.testing.assert_close(decoded, image, atol=2e-3, rtol=0)


@pytest.mark.usefixtures("recorded_noise")
@pytest.mark.parametrize(
    ("mode", "late"), [("deterministic", True), ("fast", False)], ids=["late", "together-fast"]
)
def test_among_others(switti: Golden, model: StarModel, mode: Mode, late: bool) -> None:
    """All three runs at once among other prompts; or each begins when the one before is at a later scale."""
    engine = Engine(model, slots=6, mode=mode)
    jobs = [("a cat", run, i) for i, run in enumerate(switti.runs)]
    jobs[1:1] = [(golden.RECORDED_PROMPT, run, SEED) for run in switti.runs]
    sequences: list[ImageSequence] = []
    latents: list[list[Tensor]] = [[] for _ in jobs]
    while len(sequences) < len(jobs) or not all(s.done for s in sequences):
        for prompt, run, seed in jobs[len(sequences) :]:
            sequences.append(prepare(engine, prompt, switti.runs[run], seed))
            if late:
                break
        for scale in range(5, -1, -1):
            stepping = [s for s in sequences if s.scale == scale]
            engine.step(stepping)
            for s in stepping:
                latents[sequences.index(s)].append(s.f_hat)
    assert len({tuple(torch.cat(s.tokens).tolist()) for s in sequences}) == len(jobs)
    for (prompt, run, _), sequence, found in zip(jobs, sequences, latents, strict=True):
        if prompt == golden.RECORDED_PROMPT:
            assert_recorded(switti, run, sequence, found)


def test_crop_condition(switti: Golden, model: StarModel) -> None:
    crop = model.transformer.crop
    torch.testing.assert_close(
        crop.embedding(), switti.tensors["crop.embedding"], atol=1e-6, rtol=0
    )
    torch.testing.assert_close(crop(), switti.tensors["crop.condition"], atol=1e-5, rtol=0)


def test_the_crop_condition_stays_in_float32(
    switti: Golden, recordings: Recordings, tmp_path: Path
) -> None:
    """A frequency in half precision would turn the angles, of up to 13,000, into noise."""
    transformer, vqvae, clips = recordings.files(switti)
    convert_published(
        transformer=transformer,
        vqvae=vqvae,
        text_encoder=clips,
        out=tmp_path / "native",
        preset=switti.config,
        dtype="float16",
    )
    loaded = load_model(tmp_path / "native", device="cpu", dtype="bfloat16")
    assert loaded.transformer.head.weight.dtype == torch.bfloat16
    expected = switti.tensors["crop.condition"]
    torch.testing.assert_close(loaded.transformer.crop(), expected, atol=1e-5, rtol=0)


def test_text_comes_from_both_encoders(switti: Golden, recordings: Recordings) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    (text,) = recordings.with_its_text_encoder(switti).text_encoder.encode(["a red apple"])
    assert isinstance(text, TextConditioning)
    clips = recordings.files(switti)[2]
    assert isinstance(clips, list)
    hidden, outputs = [], []
    for folder in clips:
        tokens = CLIPTokenizer.from_pretrained(folder)(
            "a red apple", padding="max_length", max_length=77, return_tensors="pt"
        )
        outputs.append(CLIPTextModel.from_pretrained(folder)(tokens.input_ids))
        hidden.append(outputs[-1].last_hidden_state[0])
    used = int(text.mask.sum())
    assert used == int(tokens.attention_mask.sum()) < 77
    expected = torch.cat(hidden, dim=1)[:used]
    assert text.hidden.shape == (77, 2048)
    torch.testing.assert_close(text.hidden[:used], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(text.pooled, outputs[1].pooler_output[0], atol=1e-4, rtol=0)


def test_presets_have_the_published_size() -> None:
    names = ["switti-512", "switti-512-ar", "switti-1024", "switti-1024-ar"]
    assert [name for name in PRESETS if name.startswith("switti")] == names
    for name in names:
        with torch.device("meta"):
            transformer = StarTransformer(PRESETS[name])
        scales = len(PRESETS[name].schedule)
        parameters = sum(p.numel() for p in transformer.parameters())
        assert parameters == 2_470_518_256 + (scales - 10) * 1920, name  # one vector a scale
    assert [PRESETS[name].image_size for name in names] == [512, 512, 1024, 1024]


def test_slots_hold_no_keys_and_values_of_the_image() -> None:
    text = 77 * 2 * 2 * 1920 * 30 * 2  # both rows, keys and values, in 30 layers, two bytes each
    modulation = 2 * (6 * 30 + 2) * 1920 * 2
    assert PRESETS["switti-512"].memory_per_slot_bytes(2) == text + modulation
    image = 1216 * 2 * 2 * 1920 * 30 * 2
    assert PRESETS["switti-512-ar"].memory_per_slot_bytes(2) == text + modulation + image


def test_the_feed_forward_width_is_rounded_down_as_published() -> None:
    for depth in range(1, 200):
        assert transformer_config(depth, "own_scale").hidden_width == 64 * depth * 8 // 3


def test_noise_follows_the_gumbel_distribution() -> None:
    noise = gumbel_noise(3, 0, 500, 1000, torch.device("cpu"))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.005)
    assert noise.var().item() == pytest.approx(1.6449, abs=0.02)
    assert noise.isfinite().all()
    for quantile in (0.01, 0.25, 0.5, 0.99):
        below = (noise <= -torch.log(-torch.log(torch.tensor(quantile)))).float().mean()
        assert below.item() == pytest.approx(quantile, abs=0.003)
    shifted = noise.flatten()
    assert abs(torch.corrcoef(torch.stack([shifted[1:], shifted[:-1]]))[0, 1].item()) < 0.005


def test_noise_depends_on_the_seed_and_the_place_alone() -> None:
    cpu = torch.device("cpu")
    whole = gumbel_noise(2**32 - 1, 0, 30, 7, cpu)
    assert torch.equal(gumbel_noise(2**32 - 1, 10, 20, 7, cpu), whole[10:])
    assert not torch.equal(gumbel_noise(2**32 - 2, 0, 30, 7, cpu), whole)


def test_noise_is_made_of_splitmix64() -> None:
    """Against whole numbers of Python, which do not overflow."""
    mask = 2**64 - 1

    def hashed(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 31)

    assert hashed(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # the first output from state 0
    gamma = 0x9E3779B97F4A7C15
    start = hashed(5 * gamma & mask)
    numbers = [hashed((start + gamma * (n + 1)) & mask) >> 41 for n in range(8, 16)]
    expected = [-torch.log(-torch.log(torch.tensor((k + 0.5) / 2**23))) for k in numbers]
    found = gumbel_noise(5, 2, 2, 4, torch.device("cpu")).flatten()
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-6, rtol=1e-5)


def test_the_crop_condition_is_exact_in_eight_bits_too(model: StarModel) -> None:
    stored = quantize_state(model.transformer.state_dict(), torch.float16)
    assert stored["blocks.0.feed_forward.up.weight"].dtype == torch.int8
    exact = [name for name in stored if name.startswith("crop.")]
    assert exact == ["crop.frequencies", "crop.projection.weight", "crop.projection.bias"]
    assert all(stored[name].dtype == torch.float32 for name in exact)
