"""Schedules whose neighbouring scales have the same side, as of models that refine the last map several times."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from star_model.engine.editing import make_edit
from star_model.engine.engine import Engine, Mode
from star_model.engine.sequence import ImageSequence
from star_model.model import StarModel
from star_model.networks.quantizer import with_codebook
from star_model.sampling import Sampling
from tests.star_model.captures import RecordingCapture
from tests.star_model.tiny import build_tiny_model, class_conditional, tiny_config

SIDES = (1, 2, 2, 4, 4, 4)


@pytest.fixture(scope="module")
def model() -> StarModel:
    return build_tiny_model(tiny_config(patch_nums=SIDES))


class OnePass:
    """Keys and values of one pass over all scales: nothing is cached."""

    def __init__(self, model: StarModel, prompt: str) -> None:
        (self.conditioning,) = model.text_encoder.encode([prompt])
        self.keys_values = model.transformer.text_keys_values(self.conditioning.hidden[None])  # type: ignore[union-attr]
        self.text_mask = self.conditioning.mask[None, None, None, :]  # type: ignore[union-attr]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v

    def text(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.keys_values[layer, 0], self.keys_values[layer, 1]


def run(engine: Engine, *sequences: ImageSequence) -> None:
    while not sequences[0].done:
        engine.step(sequences)


@torch.inference_mode()
def test_steps_predict_what_one_masked_pass_predicts(model: StarModel) -> None:
    transformer, schedule = model.transformer, model.config.schedule
    context = OnePass(model, "a cat")
    engine = Engine(model, slots=1)
    sampling = Sampling(guidance_scale=0, top_k=1)
    sequence = engine.prepare(context.conditioning, sampling, seed=1)
    stepped = []
    while not sequence.done:
        stepped.append(engine._predict([sequence])[0].clone())
        engine.step([sequence])
    given = model.vqvae.quantizer.teacher_forcing_input([t[None] for t in sequence.tokens])
    parts = [transformer.embed_start(context.conditioning.pooled[None])]  # type: ignore[union-attr]
    for scale, part in enumerate(torch.split(given, list(schedule.lengths[1:]), dim=1), start=1):
        parts.append(transformer.embed_scale(part, scale))
    scale_of = torch.arange(len(SIDES)).repeat_interleave(torch.tensor(schedule.lengths))
    mask = scale_of[:, None] >= scale_of[None, :]
    logits = transformer(torch.cat(parts, dim=1), transformer.rope, context, mask)
    torch.testing.assert_close(torch.cat(stepped), logits[0], atol=1e-4, rtol=1e-4)


def test_scales_of_one_side_have_the_same_positions(model: StarModel) -> None:
    tables = [model.transformer.rope_of(scale) for scale in (3, 4, 5)]
    assert tables[0] is not None
    assert all(torch.equal(table, tables[0]) for table in tables if table is not None)
    places = [model.transformer.place(scale) for scale in (3, 4)]
    assert not torch.equal(places[0], places[1]), "told apart by the embedding of the scale"


@torch.inference_mode()
def test_the_quantizer_encodes_what_is_left_at_the_same_side(model: StarModel) -> None:
    quantizer = with_codebook(model.vqvae.quantizer)
    features = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    tokens = quantizer.encode(features)
    assert [t.shape[1] for t in tokens] == [side * side for side in SIDES]
    assert not torch.equal(tokens[3], tokens[4])
    f_hats = list(quantizer.f_hats(tokens))
    rest = (features - f_hats[3]).permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.equal(quantizer.nearest(rest), tokens[4][0])
    expected = f_hats[3].flatten(2).transpose(1, 2)
    assert torch.equal(quantizer.next_input(f_hats[3], 4), expected), "nothing is resized"


@pytest.mark.parametrize("mode", ["deterministic", "fast"])
@pytest.mark.parametrize("classes", [False, True])
def test_generation(mode: Mode, classes: bool) -> None:
    changes = class_conditional() if classes else {}
    model = build_tiny_model(tiny_config(patch_nums=SIDES, **changes))
    conditionings = model.text_encoder.encode(["3", "7"])
    results = []
    for capture in (None, RecordingCapture()):
        engine = Engine(model, slots=2, mode=mode, capture=capture)
        engine.warm_up()
        pair = [engine.prepare(c, Sampling(smooth_scales=1), seed=5) for c in conditionings]
        run(engine, *pair)
        results.append([torch.cat(sequence.tokens).tolist() for sequence in pair])
        assert engine.finish(pair).shape == (2, 16, 16, 3)
    assert results[0] == results[1]
    assert results[0][0] != results[0][1]


def test_editing(model: StarModel) -> None:
    image = torch.randint(256, (16, 16, 3), generator=torch.Generator().manual_seed(2)).byte()
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:8, :8] = True
    (text,) = model.text_encoder.encode(["a cat"])
    engine = Engine(model, slots=2)
    edit = make_edit(model, image, mask, focus=False)
    sequence = engine.prepare(text, Sampling(), seed=3, edit=edit)
    run(engine, sequence)
    assert torch.equal(engine.finish([sequence])[0][~mask], image[~mask])
    for scale, kept in enumerate(edit.kept):
        assert torch.equal(sequence.tokens[scale][kept], edit.tokens[scale][kept])
    whole = make_edit(model, image, keep_scales=len(SIDES))
    copy = engine.prepare(text, Sampling(), seed=3, edit=whole)
    run(engine, copy)
    assert all(torch.equal(a, b) for a, b in zip(copy.tokens, whole.tokens, strict=True))
