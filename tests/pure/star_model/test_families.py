"""Guarantees for every family: cancellation, previews, editing, graphs, files; on tiny models of random weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from star_model.checkpoints.lazy_tensor import LazyTensor
from star_model.checkpoints.native import load_model, tensor_shapes
from star_model.checkpoints.saving import save_model, write_model
from star_model.engine.editing import make_edit
from star_model.engine.engine import Engine, Mode
from star_model.engine.sequence import ImageSequence
from star_model.model import StarModel
from star_model.sampling import Sampling
from tests.star_model.captures import RecordingCapture
from tests.star_model.tiny import FAMILIES, build_tiny_model, tiny_config

RUNS = {
    "guided": Sampling(top_k=0, top_p=1.0),
    "by scale": Sampling(
        guidance_from=1, unguided_scales=1, unguided_temperature=0.5, mixed_scales=2
    ),
}


@cache
def build(family: str) -> StarModel:
    return build_tiny_model(tiny_config(**FAMILIES[family]))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def model(family: str) -> StarModel:
    return build(family)


def prepare(engine: Engine, seed: int = 1, run: str = "guided", **more: object) -> ImageSequence:
    by_class = engine.model.config.transformer.num_classes > 0
    (text,) = engine.model.text_encoder.encode([str(seed % 10) if by_class else f"cat {seed}"])
    return engine.prepare(text, RUNS[run], seed=seed, **more)  # type: ignore[arg-type]


def finish(engine: Engine, *sequences: ImageSequence) -> Tensor:
    while not sequences[0].done:
        engine.step(sequences)
    return engine.finish(sequences)


def picture(side: int) -> Tensor:
    return torch.randint(
        0, 256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("run", RUNS)
def test_a_cancelled_image_leaves_no_trace(model: StarModel, run: str) -> None:
    engine = Engine(model, slots=2)
    cancelled, other = prepare(engine, 1, run), prepare(engine, 2, run)
    engine.step([cancelled, other])
    engine.step([cancelled, other])
    engine.release(cancelled)
    engine.cache.image[:, :, 0] = float("nan")  # would spread into everything that reads it
    engine.cache.text[:, :, 0] = float("nan")
    engine.cache.modulation[0] = float("nan")
    successor = prepare(engine, 3, run)
    assert successor.slot == 0
    images = [finish(engine, successor), finish(engine, other)]
    for seed, image in zip((3, 2), images, strict=True):
        clean = Engine(model, slots=1)
        assert torch.equal(image, finish(clean, prepare(clean, seed, run)))


@pytest.mark.parametrize("run", RUNS)
def test_previews_follow_the_image(model: StarModel, run: str) -> None:
    engine = Engine(model, slots=2)
    pair = [prepare(engine, 1, run), prepare(engine, 2, run)]
    previews = []
    while not pair[0].done:
        engine.step(pair)
        previews.append(engine.preview(pair))
    assert torch.equal(previews[-1], engine.finish(pair))
    assert not torch.equal(previews[0], previews[-1])


@pytest.mark.parametrize("mode", ["deterministic", "fast"])
@pytest.mark.parametrize("run", RUNS)
def test_an_edit_keeps_what_is_outside_its_mask(model: StarModel, run: str, mode: Mode) -> None:
    side = model.config.image_size
    image, mask = picture(side), torch.zeros(side, side, dtype=torch.bool)
    mask[8:20, 8:20] = True
    edit = make_edit(model, image, mask)
    engine = Engine(model, slots=2, mode=mode)
    first, second = finish(engine, prepare(engine, 1, run, edit=edit), prepare(engine, 2, run))
    assert torch.equal(first[~mask], image[~mask])
    assert not torch.equal(first[mask], image[mask])
    if mode == "deterministic":
        clean = Engine(model, slots=1)
        assert torch.equal(first, finish(clean, prepare(clean, 1, run, edit=edit))[0])
        assert torch.equal(second, finish(clean, prepare(clean, 2, run))[0])


def test_an_edit_keeps_the_first_scales(model: StarModel) -> None:
    edit = make_edit(model, picture(model.config.image_size), keep_scales=2)
    engine = Engine(model, slots=1)
    sequence = prepare(engine, 1, "by scale", edit=edit)
    finish(engine, sequence)
    kept = [torch.equal(a, b) for a, b in zip(sequence.tokens, edit.tokens, strict=True)]
    assert kept == [True, True, False, False]


@pytest.mark.parametrize("run", RUNS)
def test_graphs_compute_what_is_computed_without(model: StarModel, run: str) -> None:
    capture = RecordingCapture()
    images = []
    for engine in (
        Engine(model, slots=3, mode="fast", capture=capture),
        Engine(model, slots=3, mode="fast"),
    ):
        engine.warm_up()
        replayed = capture.replayed
        images.append(finish(engine, *(prepare(engine, seed, run) for seed in (1, 2, 3))))
    assert capture.replayed >= replayed > 0
    assert torch.equal(*images)


def test_a_saved_model_is_the_same_model(family: str, model: StarModel, tmp_path: Path) -> None:
    """Transformer and tokenizer; text encoders have tests of their own."""
    write_model(
        tmp_path / "native",
        model.config,
        transformer={n: LazyTensor.of(t) for n, t in model.transformer.state_dict().items()},
        vqvae={n: LazyTensor.of(t) for n, t in model.vqvae.state_dict().items()},
        write_text_encoder=None,
    )
    shapes = tensor_shapes(model.config)[0]
    assert shapes == {n: tuple(t.shape) for n, t in model.transformer.state_dict().items()}
    if family.startswith("var"):
        loaded = load_model(tmp_path / "native", device="cpu", dtype="float32")
        save_model(loaded, tmp_path / "again")
        files = [tmp_path / d / "transformer.safetensors" for d in ("native", "again")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_guidance_that_begins_late_changes_nothing_before(model: StarModel) -> None:
    """Until then the image is the one without guidance."""
    by_class = model.config.transformer.num_classes > 0
    (text,) = model.text_encoder.encode(["3" if by_class else "a cat"])
    engine = Engine(model, slots=3)
    late, without, always = (
        engine.prepare(
            text,
            Sampling(top_k=0, top_p=1.0, guidance_scale=scale, guidance_from=start),
            seed=1,
        )
        for scale, start in ((50.0, 2), (0.0, 0), (50.0, 0))
    )
    for _ in range(engine.num_scales):
        for sequence in (late, without, always):
            engine.step([sequence])
    for begun, same in ((0, True), (1, True), (3, False)):
        assert torch.equal(late.tokens[begun], without.tokens[begun]) == same
    assert not torch.equal(always.tokens[1], without.tokens[1])
