"""Infinity against what its published code computes, all recorded runs, and what only this family does."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from star_model.checkpoints.published import convert_published
from star_model.engine import token_sampler
from star_model.engine.candidates import Candidates, candidates
from star_model.engine.editing import Edit, kept_tokens, make_edit
from star_model.engine.engine import Engine, Mode
from star_model.engine.sequence import ImageSequence
from star_model.errors import CheckpointError, ConfigError
from star_model.families import infinity
from star_model.families.registry import PRESETS, family_of
from star_model.guidance import guided_scales, strengths
from star_model.model import StarModel
from star_model.networks.rope import grid_positions
from star_model.networks.text_encoder import TextConditioning
from star_model.networks.tokenizers import build_tokenizer
from star_model.networks.transformer import StarTransformer
from star_model.sampling import Sampling
from star_model.scales import ScaleSchedule
from tests.star_model import golden
from tests.star_model.golden import Golden
from tests.star_model.recordings import Recordings
from tests.star_model.tiny import FAMILIES, build_tiny_model, tiny_config, write_tiny_t5

RUNS = ("generate", "negative", "tall", "prefix")


@pytest.fixture(scope="module", params=[golden.INFINITY, golden.INFINITY_PATCHIFY])
def recorded(request: pytest.FixtureRequest) -> Golden:
    found: Golden = request.param
    return found


@pytest.fixture(scope="module")
def models(recorded: Golden, recordings: Recordings) -> dict[str, StarModel]:
    """The recorded model for each run: the same weights, converted for one schedule or the other."""
    return {run: recordings.model(recorded, run) for run in RUNS}


def given_prefix(recorded: Golden, model: StarModel) -> Edit:
    """An edit that keeps the recorded first scales of a picture and paints the others."""
    scales = recorded.description["config"]["runs"]["prefix"]["gt_leak"]
    side = model.config.image_size
    image = torch.zeros(side, side, 3, dtype=torch.uint8)
    edit = make_edit(model, image, keep_scales=scales, feather=False)
    tokens = [torch.tensor(recorded.tokens("vae", scale)[0]) for scale in range(len(edit.tokens))]
    vectors = [model.vqvae.quantizer.vectors(t[None])[0] for t in tokens]
    return replace(edit, tokens=tokens, vectors=vectors)


def prepare(engine: Engine, recorded: Golden, run: str, seed: int = 7) -> ImageSequence:
    prompt, negative = engine.model.text_encoder.encode(
        [golden.RECORDED_PROMPT, golden.NEGATIVE_PROMPT]
    )
    return engine.prepare(
        prompt,
        recorded.runs[run],
        seed=seed,
        negative=negative if run == "negative" else None,
        edit=given_prefix(recorded, engine.model) if run == "prefix" else None,
        shape=len(engine.schedules) - 1 if run == "tall" else 0,
    )


def assert_recorded(
    recorded: Golden, run: str, sequence: ImageSequence, latents: list[Tensor]
) -> None:
    for scale, (tokens, latent) in enumerate(zip(sequence.tokens, latents, strict=True)):
        assert tokens.tolist() == recorded.tokens(run, scale)[0], f"scale {scale}"
        expected = recorded.tensors[f"{run}.codes.{scale}"][0]
        torch.testing.assert_close(latent, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("run", RUNS)
def test_alone(
    recorded: Golden, models: dict[str, StarModel], run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models[run]
    engine = Engine(model, slots=1)
    logits: list[Tensor] = []

    def spy(rows: Tensor, *, top_k: int, top_p: Tensor | None) -> Candidates:
        logits.append(rows)
        return candidates(rows, top_k=top_k, top_p=top_p)

    monkeypatch.setattr(token_sampler, "candidates", spy)
    sequence = prepare(engine, recorded, run)
    latents, inputs = [], []
    while not sequence.done:
        engine.step([sequence])
        latents.append(sequence.f_hat)
        if not sequence.done:
            inputs.append(
                model.vqvae.quantizer.next_input(
                    sequence.f_hat[None], sequence.scale, sequence.shape
                )
            )
    assert_recorded(recorded, run, sequence, latents)
    for scale, found in enumerate(logits):
        expected = recorded.tensors[f"{run}.logits.{scale}"]
        torch.testing.assert_close(found.view(expected.shape), expected, atol=1e-3, rtol=0)
    given = recorded.tensors[f"{run}.next_scale_input"]
    torch.testing.assert_close(torch.cat(inputs, dim=1), given, atol=1e-4, rtol=0)
    decoded = (model.decode(sequence.f_hat[None]) + 1) / 2
    if run == "negative":
        mean = recorded.tensors["negative.image_mean"]
        torch.testing.assert_close(decoded.mean((2, 3)), mean, atol=1e-4, rtol=0)
    else:
        image = recorded.tensors[f"{run}.image"].float()
        torch.testing.assert_close(decoded, image, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("mode", "late"), [("deterministic", True), ("fast", False)], ids=["late", "together-fast"]
)
def test_among_others(
    recorded: Golden, models: dict[str, StarModel], mode: Mode, late: bool
) -> None:
    """The runs of one schedule at once among another prompt's; or each begins when others are at later scales."""
    engine = Engine(models["generate"], slots=5, mode=mode)
    (cat,) = engine.model.text_encoder.encode(["a cat"])
    jobs: list[str | None] = ["generate", None, "negative", "prefix", None]
    sequences: list[ImageSequence] = []
    latents: list[list[Tensor]] = [[] for _ in jobs]
    while len(sequences) < len(jobs) or not all(s.done for s in sequences):
        for seed, run in list(enumerate(jobs))[len(sequences) :]:
            sequences.append(
                engine.prepare(cat, Sampling(guidance_scale=3.0), seed=seed)
                if run is None
                else prepare(engine, recorded, run)
            )
            if late:
                break
        for scale in range(engine.num_scales - 1, -1, -1):
            stepping = [s for s in sequences if s.scale == scale]
            engine.step(stepping)
            for s in stepping:
                latents[sequences.index(s)].append(s.f_hat)
    for run, sequence, found in zip(jobs, sequences, latents, strict=True):
        if run is not None:
            assert_recorded(recorded, run, sequence, found)


def test_shapes_take_turns(recorded: Golden, models: dict[str, StarModel]) -> None:
    """Images of two shapes in flight together; each step advances those of one."""
    engine = Engine(models["tall"], slots=2, mode="fast")
    tall, square = (prepare(engine, recorded, run) for run in ("tall", "generate"))
    latents = []
    with pytest.raises(ValueError, match="a step needs sequences of one shape"):
        engine.step([tall, square])
    while not tall.done:
        engine.step([square])
        engine.step([tall])
        latents.append(tall.f_hat)
    assert_recorded(recorded, "tall", tall, latents)
    if len(engine.schedules[0]) == len(recorded.config.schedule):
        assert square.tokens[-1].tolist() == recorded.tokens("generate", engine.num_scales - 1)[0]
    sizes = [tuple(engine.finish([s]).shape[1:3]) for s in (tall, square)]
    assert sizes == [models["tall"].config.sizes[1], models["tall"].config.sizes[0]]


# ---- files -------------------------------------------------------------------------------------------------


def converted(directory: Path, transformer: dict[str, Tensor], vqvae: dict[str, Tensor]) -> Path:
    """The 2B model from the given state dicts, converted."""
    files = [directory / "transformer.safetensors", directory / "vqvae.safetensors"]
    for file, state in zip(files, (transformer, vqvae), strict=True):
        save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, file)
    t5 = write_tiny_t5(directory / "t5", hidden_size=256)
    convert_published(
        transformer=files[0],
        vqvae=files[1],
        text_encoder=t5,
        out=directory / "native",
        preset=golden.INFINITY.config,
    )
    return directory / "native"


@pytest.fixture(scope="module")
def official() -> dict[str, dict[str, Tensor]]:
    """The state dicts of the recorded 2B model, by part; not to be written to."""
    return {part: golden.INFINITY.official_state(part) for part in ("transformer", "vae")}


def test_files_of_other_versions(official: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    """Temperatures as they are saved without flash-attention or with, convolutions and norms wrapped or not."""
    states = [official["transformer"], official["vae"]]
    others = [
        {
            name: tensor.transpose(1, 2) if name.endswith("scale_mul_1H11") else tensor
            for name, tensor in states[0].items()
        },
        {re.sub(r"\.(conv|norm)\.(weight|bias)$", r".\2", n): t for n, t in states[1].items()},
    ]
    assert others[1].keys() != states[1].keys()
    directories = [tmp_path / "a", tmp_path / "b"]
    natives = []
    for directory, (transformer, vqvae) in zip(directories, (states, others), strict=True):
        directory.mkdir()
        natives.append(converted(directory, transformer, vqvae))
    for name in ("transformer.safetensors", "vqvae.safetensors"):
        first, second = (native / name for native in natives)
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_chunks.1.module.0.ca.zero_k_bias": torch.ones(256)}, "is not all zeros"),
        (
            {"block_chunks.2.module.1.ca.v_bias": torch.ones(256)},
            "has 6 blocks, but infinity-tiny has 4",
        ),
        ({"lvl_embed.weight": torch.ones(10, 256)}, "has 10 scales, but infinity-tiny has 15"),
        ({"surplus.weight": torch.ones(3)}, r"tensor surplus\.weight is unexpected"),
        (
            {"block_chunks.0.module.1.sa.scale_mul_1H11": torch.ones(2, 1, 1, 1)},
            r"sa\.scale_mul_1H11 has shape \(2, 1, 1, 1\), expected \(1, 2, 1, 1\)",
        ),
    ],
)
def test_a_wrong_tensor_is_named(
    change: dict[str, Tensor], message: str, official: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    state = {**official["transformer"], **change}
    with pytest.raises(CheckpointError, match=message):
        converted(tmp_path, state, official["vae"])


# ---- parts -------------------------------------------------------------------------------------------------


def test_positions_are_rounded_halves_to_even() -> None:
    """Of a scale of 4 on a grid of 10: 0, 2.5, 5, 7.5."""
    schedule = ScaleSchedule((1, (4, 2), (10, 4)))
    rows, columns = grid_positions(schedule, (10, 4))[1]
    assert rows.tolist() == [0, 2, 5, 8]
    assert columns.tolist() == [0, 2]


def test_ties_occur_in_shapes_that_are_not_square() -> None:
    ties = {}
    for name, sizes in {"1.000": [(s, s) for s in infinity.SQUARE], **infinity.PORTRAIT}.items():
        grid = sizes[-1]
        places = [
            Fraction(i * whole, part)
            for size in sizes
            for part, whole in zip(size, grid, strict=True)
            for i in range(part)
        ]
        ties[name] = sum(place.denominator == 2 for place in places)
    assert ties["1.000"] >= 0
    assert sum(ties.values()) > 100


def test_presets_have_the_published_size() -> None:
    expected = {
        "infinity-2b": (2_204.6e6, (1024, 1024)),
        "infinity-8b": (8_376e6, (1024, 1024)),
        "infinity-8b-512": (8_376e6, (512, 512)),
    }
    assert [name for name in PRESETS if name.startswith("infinity")] == list(expected)
    for name, (parameters, size) in expected.items():
        config = PRESETS[name]
        with torch.device("meta"):
            transformer, tokenizer = StarTransformer(config), build_tokenizer(config)
        counted = sum(p.numel() for p in transformer.parameters())
        assert counted == pytest.approx(parameters, rel=1e-4), name
        assert config.size() == size
        if name == "infinity-2b":
            assert sum(p.numel() for p in tokenizer.parameters()) == pytest.approx(110e6, rel=0.03)


def test_fifteen_shapes_of_a_million_pixels() -> None:
    config = PRESETS["infinity-2b"]
    assert len(config.sizes) == 15
    assert config.sizes[:3] == ((1024, 1024), (1120, 896), (1152, 864))
    assert {(w, h) for h, w in config.sizes} == set(config.sizes)
    assert all(0.9e6 < h * w < 1.1e6 for h, w in config.sizes)
    assert config.schedule.num_tokens == 10_521


def test_memory_of_a_slot() -> None:
    """Keys and values of both rows, of all scales but the last, in bfloat16: 3.37 GB and 7.37 GB of an image."""
    for name, cached in (("infinity-2b", 3.37e9), ("infinity-8b", 7.37e9)):
        config = PRESETS[name]
        t = config.transformer
        image = 2 * 2 * t.depth * config.schedule.cached_tokens * t.width * 2
        assert image == pytest.approx(cached, rel=2e-3)
        assert config.cached_tokens == max(s.cached_tokens for s in config.schedules)
        text = 2 * 2 * t.depth * 512 * t.width * 2
        modulation = 2 * (6 * t.depth + 2) * t.width * 2
        largest = image // config.schedule.cached_tokens * config.cached_tokens
        assert config.memory_per_slot_bytes(2) == largest + text + modulation


def test_the_family_of_a_configuration() -> None:
    for name in ("infinity", "infinity-patches"):
        assert family_of(tiny_config(**FAMILIES[name])) is infinity.FAMILY


def test_shapes_are_checked() -> None:
    config = tiny_config(**FAMILIES["infinity"])
    with pytest.raises(
        ConfigError, match="other_shapes must have as many scales as patch_nums, 4, got 2"
    ):
        replace(config, other_shapes=(((1, 1), (2, 3)),))
    with pytest.raises(ConfigError, match="patch_nums must not decrease"):
        replace(config, other_shapes=(((1, 1), (2, 3), (3, 2), (4, 4)),))
    with pytest.raises(
        ConfigError, match="rope_grids must be one for each of the 2 shapes, or none"
    ):
        replace(config, rope_grids=((9, 9),))
    with pytest.raises(ConfigError, match=r"scale_embeddings must be at least the 4 scales, got 3"):
        replace(config, transformer=replace(config.transformer, scale_embeddings=3))
    assert replace(config, rope_grids=()).size(1) == (16, 28)


@pytest.mark.parametrize("family", ["infinity", "infinity-patches"])
def test_an_edit_of_another_shape(family: str) -> None:
    model = build_tiny_model(tiny_config(**FAMILIES[family]))
    image = torch.randint(0, 256, (16, 28, 3), dtype=torch.uint8)
    mask = torch.zeros(16, 28, dtype=torch.bool)
    mask[3:9, 5:20] = True
    (text,) = model.text_encoder.encode(["a cat"])
    for focus in (False, True):
        edit = make_edit(model, image, mask, keep_scales=2, focus=focus)
        engine = Engine(model, slots=1)
        sequence = engine.prepare(text, Sampling(), seed=1, edit=edit)
        while not sequence.done:
            engine.step([sequence])
        (result,) = engine.finish([sequence])
        assert torch.equal(result[~mask], image[~mask])
        assert not torch.equal(result[mask], image[mask])
        assert all(
            torch.equal(a, b) for a, b in zip(sequence.tokens[:2], edit.tokens[:2], strict=True)
        )
    kept = kept_tokens(mask, model.config.schedules[1])
    assert [len(k) for k in kept] == [1, 2, 15, 28]


def test_a_lone_bit_in_the_mask_is_painted() -> None:
    """All bits of a token are kept or painted together."""
    model = build_tiny_model(tiny_config(**FAMILIES["infinity-patches"]))
    image = torch.randint(0, 256, (28, 28, 3), dtype=torch.uint8)
    mask = torch.zeros(28, 28, dtype=torch.bool)
    mask[0, 0] = True
    edit = make_edit(model, image, mask, keep_scales=0, focus=False)
    painted = [(~kept.view(-1, 24)).any(1).sum().item() for kept in edit.kept]
    assert painted == [1, 1, 1, 1]
    assert all((kept.view(-1, 24).all(1) | ~kept.view(-1, 24).any(1)).all() for kept in edit.kept)


def test_the_learnt_text_is_as_long_as_the_prompt() -> None:
    """Without a negative prompt, its length follows the prompt's; with one, it has its own."""
    model = build_tiny_model(tiny_config(**FAMILIES["infinity"]))
    engine = Engine(model, slots=2)
    short, longer = model.text_encoder.encode(["a", "a b c d"])
    assert isinstance(short, TextConditioning)
    for text, negative, lengths in (
        (short, None, [3, 3]),
        (longer, None, [6, 6]),
        (longer, short, [6, 3]),
    ):
        sequence = engine.prepare(text, Sampling(), seed=1, negative=negative)
        assert sequence.slot is not None
        assert engine.cache.text_mask[sequence.slot].sum(1).tolist() == lengths
        engine.release(sequence)


def test_strength_of_guidance() -> None:
    constant = Sampling(guidance_scale=3.0, guidance_from=1)
    assert strengths(constant, "constant", 4) == (0, 2, 2, 2)
    by_scale = Sampling(guidance_by_scale="1,4,0.5")
    assert strengths(by_scale, "constant", 4) == (0, 3, -0.5, -0.5)
    assert strengths(Sampling(guidance_scale=3.0), "rising", 4) == pytest.approx((0, 1, 2, 3))
    for scale in (0.0, 1.0):
        off = Sampling(guidance_scale=scale)
        assert guided_scales(off, "constant", 3, own_scale=False) == (False,) * 3


def test_a_later_scale_needs_both_rows_of_earlier_ones() -> None:
    by_scale = Sampling(guidance_by_scale="1,1,3,1")
    assert guided_scales(by_scale, "constant", 4, own_scale=False) == (True, True, True, False)
    assert guided_scales(by_scale, "constant", 4, own_scale=True) == (False, False, True, False)
    ended = by_scale.changed({"unguided_scales": 2})
    assert guided_scales(ended, "constant", 4, own_scale=False) == (False,) * 4


def test_temperatures() -> None:
    sampling = Sampling(temperature=0.5, unguided_scales=1, unguided_temperature=0.1)
    assert sampling.temperatures(3) == (0.5, 0.5, 0.1)
    assert Sampling(temperature_by_scale="1,0.5").temperatures(3) == (1, 0.5, 0.5)


@pytest.mark.parametrize(
    "given",
    [
        {"guidance_by_scale": "1,,2"},
        {"guidance_by_scale": "-1"},
        {"guidance_by_scale": "101"},
        {"temperature_by_scale": "0"},
        {"temperature_by_scale": "one"},
    ],
)
def test_lists_of_numbers_are_checked(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="by_scale"):
        Sampling(**given)  # type: ignore[arg-type]


def test_text_has_no_padding(recorded: Golden, recordings: Recordings) -> None:
    from transformers import T5EncoderModel, T5Tokenizer

    t5 = recordings.files(recorded)[2]
    assert isinstance(t5, Path)
    model = recordings.with_its_text_encoder(recorded)
    (text,) = model.text_encoder.encode(["a red apple"])
    assert isinstance(text, TextConditioning)
    tokens = T5Tokenizer.from_pretrained(t5)("a red apple", return_tensors="pt").input_ids
    with torch.inference_mode():
        expected = T5EncoderModel.from_pretrained(t5)(tokens).last_hidden_state[0]
    assert text.mask.tolist() == [True] * tokens.shape[1]
    assert text.pooled.shape == (0,)
    torch.testing.assert_close(text.hidden, expected, atol=1e-5, rtol=0)
    (long,) = model.text_encoder.encode(["apple " * 600])
    assert isinstance(long, TextConditioning)
    assert len(long.hidden) == 512
    assert long.truncated.startswith("apple")
