from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from star_model.engine.engine import Engine, Mode
from star_model.engine.sequence import ImageSequence
from star_model.errors import OutOfSlotsError
from star_model.model import StarModel
from star_model.networks.quantizer import with_codebook
from star_model.networks.text_encoder import ClassConditioning, TextConditioning
from star_model.sampling import SEEDS, Sampling
from tests.star_model.captures import RecordingCapture
from tests.star_model.tiny import (
    FAMILIES,
    HashTextEncoder,
    build_tiny_model,
    class_conditional,
    tiny_config,
)


def prepare(
    engine: Engine, prompt: str = "a cat", seed: int = 1, **changes: float
) -> ImageSequence:
    (text,) = engine.model.text_encoder.encode([prompt])
    return engine.prepare(text, Sampling().changed(changes), seed=seed)


def run(engine: Engine, *sequences: ImageSequence) -> None:
    while not sequences[0].done:
        engine.step(sequences)


def test_life_of_a_sequence(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=2)
    sequence = prepare(engine)
    assert (engine.total_slots, engine.free_slots, engine.num_scales) == (2, 1, 4)
    for scale, side in enumerate(tiny_model.config.patch_nums):
        assert (sequence.scale, sequence.done) == (scale, False)
        engine.step([sequence])
        assert sequence.tokens[scale].shape == (side * side,)
        assert 0 <= sequence.tokens[scale].min() <= sequence.tokens[scale].max() < 96
    assert sequence.done
    images = engine.finish([sequence])
    assert (images.shape, images.dtype) == ((1, 28, 28, 3), torch.uint8)
    assert images.is_contiguous()
    assert images.float().std() > 1
    assert (sequence.slot, engine.free_slots) == (None, 2)


def test_f_hat_is_what_the_tokens_add_up_to(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=1)
    sequence = prepare(engine)
    run(engine, sequence)
    *_, expected = tiny_model.vqvae.quantizer.f_hats([t[None] for t in sequence.tokens])
    torch.testing.assert_close(sequence.f_hat, expected[0])


def test_smooth_scales_add_up_means(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=3)
    drawn, smooth, whole = (prepare(engine, top_k=5, top_p=1.0, smooth_scales=n) for n in (0, 2, 4))
    codebook = with_codebook(tiny_model.vqvae.quantizer).codebook.weight
    for scale in range(engine.num_scales):
        f_hat, logits = smooth.f_hat, engine._predict([smooth])
        engine.step([drawn])
        engine.step([smooth])
        engine.step([whole])
        likely = logits.topk(5).values.softmax(-1)  # (1, L, 5)
        means = (likely.unsqueeze(-1) * codebook[logits.topk(5).indices]).sum(2)
        vectors = means if scale >= 2 else codebook[smooth.tokens[scale]].unsqueeze(0)
        expected = f_hat + tiny_model.vqvae.quantizer.contribution_of(vectors, scale)[0]
        torch.testing.assert_close(smooth.f_hat, expected, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(drawn.tokens[:3], smooth.tokens[:3], strict=True))
    assert not torch.equal(drawn.f_hat, smooth.f_hat)
    assert not torch.equal(smooth.f_hat, whole.f_hat)


def test_the_mean_of_one_candidate_is_that_candidate(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=2)
    greedy, smooth = prepare(engine, top_k=1), prepare(engine, top_k=1, smooth_scales=4)
    run(engine, greedy)
    run(engine, smooth)
    assert all(torch.equal(a, b) for a, b in zip(greedy.tokens, smooth.tokens, strict=True))
    torch.testing.assert_close(greedy.f_hat, smooth.f_hat)


def test_preview_follows_the_image(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=2)
    pair = [prepare(engine), prepare(engine, "a dog")]
    previews = []
    while not pair[0].done:
        engine.step(pair)
        previews.append(engine.preview(pair))
    assert all(p.shape == (2, 28, 28, 3) and p.dtype == torch.uint8 for p in previews)
    assert torch.equal(previews[-1], engine.finish(pair))
    assert not torch.equal(previews[0], previews[-1])


def test_out_of_slots(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=2)
    first, _ = prepare(engine), prepare(engine)
    with pytest.raises(OutOfSlotsError, match="all 2 slots are in use"):
        prepare(engine)
    engine.release(first)
    assert prepare(engine).slot == 0


def test_the_padding_slot_is_nobodys(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=2, capture=RecordingCapture())
    assert (engine.total_slots, engine.free_slots) == (2, 2)
    prepare(engine), prepare(engine)
    with pytest.raises(OutOfSlotsError):
        prepare(engine)


def test_release_is_idempotent(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=1)
    sequence = prepare(engine)
    engine.step([sequence])
    engine.release(sequence)
    engine.release(sequence)
    assert engine.free_slots == 1
    successor = prepare(engine)
    engine.release(sequence)  # does not take the slot from its new owner
    assert (engine.free_slots, successor.slot) == (0, 0)


def test_a_reused_slot_has_no_trace_of_the_former_image(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=1)
    former = prepare(engine, "something entirely different with many more words in it")
    run(engine, former)
    engine.release(former)
    for cache in (engine.cache.image, engine.cache.text):
        cache.fill_(float("nan"))  # would spread into everything that reads it
    sequence = prepare(engine, "cat")
    run(engine, sequence)
    clean = Engine(tiny_model, slots=1)
    fresh = prepare(clean, "cat")
    run(clean, fresh)
    assert torch.cat(sequence.tokens).tolist() == torch.cat(fresh.tokens).tolist()


def test_padding_computes_numbers(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=1, mode="fast", capture=RecordingCapture())
    engine.warm_up()
    run(engine, prepare(engine))
    assert engine.cache.image.isfinite().all()
    assert engine.cache.text_mask.any(-1).all()  # attention to nothing at all is not a number


def test_a_failing_prepare_keeps_its_slot_free(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=1)
    (text,) = HashTextEncoder().encode(["a cat"])
    wrong = TextConditioning(text.hidden[:, :5], text.mask, text.pooled)
    with pytest.raises(RuntimeError):
        engine.prepare(wrong, Sampling(), seed=1)
    assert engine.free_slots == 1


def test_a_step_needs_one_scale(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=2)
    ahead, behind = prepare(engine), prepare(engine)
    engine.step([ahead])
    with pytest.raises(ValueError, match=r"got scales \[0, 1\] of 4"):
        engine.step([ahead, behind])
    engine.step([])
    assert (ahead.scale, behind.scale) == (1, 0)


def test_a_step_refuses_what_is_done_or_released(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=2)
    done, released = prepare(engine), prepare(engine)
    run(engine, done)
    with pytest.raises(ValueError, match="unfinished"):
        engine.step([done])
    engine.release(released)
    with pytest.raises(ValueError, match="unfinished"):
        engine.step([released])


def test_finish_needs_all_scales(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=1)
    sequence = prepare(engine)
    engine.step([sequence])
    with pytest.raises(ValueError, match="scales are all predicted"):
        engine.finish([sequence])
    assert sequence.slot is not None


def test_slots_are_checked(tiny_model: StarModel) -> None:
    with pytest.raises(ValueError, match="slots must be at least 1"):
        Engine(tiny_model, slots=0)


@pytest.mark.parametrize("seed", [-1, SEEDS])
def test_seeds_are_checked(tiny_model: StarModel, seed: int) -> None:
    engine = Engine(tiny_model, slots=1)
    with pytest.raises(ValueError, match=f"seed must be 0 to {SEEDS - 1}, got {seed}"):
        prepare(engine, seed=seed)
    assert engine.free_slots == 1


def test_a_class_conditional_model() -> None:
    engine = Engine(build_tiny_model(tiny_config(**class_conditional())), slots=2)
    ostrich, tench = prepare(engine, "ostrich"), prepare(engine, "0")
    run(engine, ostrich, tench)
    assert torch.cat(ostrich.tokens).tolist() != torch.cat(tench.tokens).tolist()
    assert engine.finish([ostrich, tench]).shape == (2, 28, 28, 3)
    again = prepare(engine, "9")
    run(engine, again)
    assert torch.cat(again.tokens).tolist() == torch.cat(ostrich.tokens).tolist()


def test_the_conditioning_must_be_the_models(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=1)
    with pytest.raises(TypeError, match="tiny is text-conditional"):
        engine.prepare(ClassConditioning(3), Sampling(), seed=1)
    (text,) = tiny_model.text_encoder.encode(["a cat"])
    with pytest.raises(TypeError, match="tiny is text-conditional"):
        engine.prepare(text, Sampling(), seed=1, negative=ClassConditioning(3))
    by_class = Engine(build_tiny_model(tiny_config(**class_conditional())), slots=1)
    with pytest.raises(TypeError, match="tiny is class-conditional"):
        by_class.prepare(text, Sampling(), seed=1)
    assert engine.free_slots == by_class.free_slots == 1


def test_a_negative_class_changes_the_image() -> None:
    engine = Engine(build_tiny_model(tiny_config(**class_conditional())), slots=1)
    positive, negative, none = engine.model.text_encoder.encode(["ostrich", "tench", ""])
    results = []
    for against in (None, negative, none):
        sequence = engine.prepare(positive, Sampling(guidance_scale=20.0), seed=1, negative=against)
        run(engine, sequence)
        results.append(torch.cat(sequence.tokens).tolist())
        engine.release(sequence)
    assert results[0] != results[1]
    assert results[0] == results[2]


@pytest.mark.parametrize("rows", ["own", "conditional"])
def test_a_negative_prompt_changes_the_image(rows: Literal["own", "conditional"]) -> None:
    config = tiny_config()
    config = replace(config, transformer=replace(config.transformer, cross_attention_rows=rows))
    engine = Engine(build_tiny_model(config), slots=1)
    positive, negative = engine.model.text_encoder.encode(["a cat", "blurry"])
    results = []
    for against in (None, negative):
        sequence = engine.prepare(positive, Sampling(guidance_scale=20.0), seed=1, negative=against)
        run(engine, sequence)
        results.append(torch.cat(sequence.tokens).tolist())
        engine.release(sequence)
    assert results[0] != results[1]


def test_guidance_starts_at_zero_and_grows(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=2)
    without, with_guidance = (
        prepare(engine, guidance_scale=0.0),
        prepare(engine, guidance_scale=50.0),
    )
    run(engine, without, with_guidance)
    assert torch.equal(without.tokens[0], with_guidance.tokens[0])
    assert not torch.equal(without.tokens[-1], with_guidance.tokens[-1])


def test_half_precision(tiny_model: StarModel) -> None:
    """What a GPU runs by default: keys and values in bfloat16, the image in float32."""
    half = build_tiny_model()
    for parameter in half.transformer.parameters():
        parameter.data = parameter.data.bfloat16()
    engine = Engine(replace(half, dtype=torch.bfloat16), slots=1)
    sequence = prepare(engine)
    run(engine, sequence)
    assert engine.cache.image.dtype == torch.bfloat16
    assert half.transformer.rope.dtype == torch.float32
    assert (sequence.f_hat.dtype, bool(sequence.f_hat.isfinite().all())) == (torch.float32, True)


def test_unguided_scales_follow_the_prompt_alone(tiny_model: StarModel) -> None:
    engine = Engine(tiny_model, slots=2)
    a = prepare(engine, guidance_scale=30.0)
    b = prepare(engine, guidance_scale=30.0, unguided_scales=2)
    for scale in range(2):
        engine.step([a, b])
        assert torch.equal(a.tokens[scale], b.tokens[scale])
    run(engine, a, b)
    assert not torch.equal(a.tokens[2], b.tokens[2])
    engine.release(a)
    engine.release(b)
    plain = prepare(engine, guidance_scale=0.0)
    c = prepare(engine, guidance_scale=30.0, unguided_scales=5)  # more than the model has
    run(engine, plain, c)
    assert torch.cat(plain.tokens).tolist() == torch.cat(c.tokens).tolist(), (
        "no guidance is guidance of 0"
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("row", ["conditional", "unconditional"])
def test_the_row_that_goes_on_without_guidance(
    monkeypatch: pytest.MonkeyPatch, family: str, row: Literal["conditional", "unconditional"]
) -> None:
    config = tiny_config(**FAMILIES[family])
    transformer = replace(config.transformer, unguided_row=row)
    model = build_tiny_model(replace(config, transformer=transformer))
    outputs, features = list[torch.Tensor](), model.transformer.features

    def recorded(x: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        outputs.append(features(x, *rest, **more))  # type: ignore[arg-type]
        return outputs[-1]

    monkeypatch.setattr(model.transformer, "features", recorded)
    engine = Engine(model, slots=3)
    prompt = "1" if family.startswith("var") else "a cat"
    other = prepare(engine, prompt, seed=2, top_k=1)
    guided, unguided = (prepare(engine, prompt, top_k=1, unguided_scales=n) for n in (0, 2))
    for _ in range(engine.num_scales - 2):
        engine.step([other, unguided, guided])
    outputs.clear()
    for sequence in (guided, unguided):
        engine.step([sequence])
    pair, alone = outputs
    kept = ("conditional", "unconditional").index(row)
    torch.testing.assert_close(alone, pair[kept : kept + 1])
    assert not torch.allclose(pair[0], pair[1])
    run(engine, unguided)
    engine.finish([unguided])
    again = prepare(engine, prompt, top_k=1)  # in the slot of the one before, which leaves no trace
    run(engine, again)
    run(engine, guided)
    assert [t.tolist() for t in again.tokens] == [t.tolist() for t in guided.tokens]


def test_the_unconditional_row_reads_its_own_text_where_it_goes_on_alone() -> None:
    """Also in a model whose prompt's cross-attention served both rows until then."""
    config = tiny_config()
    transformer = replace(
        config.transformer, unguided_row="unconditional", cross_attention_rows="conditional"
    )
    engine = Engine(build_tiny_model(replace(config, transformer=transformer)), slots=2)
    for negative in ("", "a dog"):
        prompt, text = engine.model.text_encoder.encode(["a cat", negative])
        sequence = engine.prepare(prompt, Sampling(unguided_scales=1), seed=1, negative=text)
        slot, cache = sequence.slot, engine.cache
        assert slot is not None
        assert isinstance(text, TextConditioning)
        for _ in range(3):
            engine.step([sequence])
            assert int(cache.text_mask[slot].sum()) == 4
        image = cache.image[:, :, slot].clone()
        engine.step([sequence])
        hidden = text.hidden[None]
        expected = engine.model.transformer.text_keys_values(hidden)[:, :, 0]
        torch.testing.assert_close(cache.text[:, :, slot, 0], expected)
        assert torch.equal(cache.text_mask[slot, 0], text.mask)
        assert torch.equal(cache.image[:, :, slot, 0], image[:, :, 1])
        engine.finish([sequence])


@pytest.mark.parametrize("mode", ["deterministic", "fast"])
@pytest.mark.parametrize("draft", [1, 2])
def test_a_draft_is_the_unfinished_image_of_its_seed(
    tiny_model: StarModel, mode: Mode, draft: int
) -> None:
    engine = Engine(tiny_model, slots=3, mode=mode)
    whole, other = prepare(engine, seed=5), prepare(engine, seed=6)
    quick = prepare(engine, seed=5, draft=draft, unguided_scales=1)  # of the whole image's scales
    painted = engine.num_scales - draft
    for _ in range(painted):
        assert not quick.done
        engine.step([whole, quick, other])
    assert quick.done
    assert not whole.done
    assert [t.tolist() for t in quick.tokens] == [t.tolist() for t in whole.tokens]
    with pytest.raises(ValueError, match="unfinished sequences"):
        engine.step([quick])
    unfinished = engine.preview([whole])
    free = engine.free_slots
    assert torch.equal(engine.finish([quick]), unfinished)
    assert engine.free_slots == free + 1


def test_a_draft_of_nothing_is_refused(tiny_model: StarModel) -> None:
    config = replace(tiny_model.config, patch_nums=(1, 7))
    engine = Engine(build_tiny_model(config), slots=1)
    with pytest.raises(ValueError, match="draft must be less than 2"):
        prepare(engine, draft=2)
    assert engine.free_slots == 1


@pytest.mark.parametrize("mode", ["deterministic", "fast"])
def test_an_image_without_guidance_costs_one_row(
    tiny_model: StarModel, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    rows = []
    features = tiny_model.transformer.features

    def counted(x: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        rows.append(len(x))
        return features(x, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(tiny_model.transformer, "features", counted)
    engine = Engine(tiny_model, slots=4, mode=mode)
    without = [prepare(engine, seed=seed, guidance_scale=0.0) for seed in (0, 1)]
    guided = prepare(engine, seed=2, guidance_scale=2.0)
    run(engine, without[0], guided, without[1])
    assert rows == ([2, 1, 1] if mode == "deterministic" else [2, 2]) * 4
    if mode == "deterministic":  # then each is what it is alone
        alone = Engine(tiny_model, slots=1)
        for sequence in (guided, *without):
            same = prepare(
                alone, seed=sequence.seed, guidance_scale=sequence.sampling.guidance_scale
            )
            run(alone, same)
            assert torch.equal(torch.cat(same.tokens), torch.cat(sequence.tokens))
            assert torch.equal(same.f_hat, sequence.f_hat)
            alone.release(same)


def test_a_texts_keys_and_values_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all images of a request once, and those of the empty prompt once for good."""
    model = build_tiny_model()
    computed: list[int] = []
    compute = model.transformer.text_keys_values

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        computed.append(len(hidden))
        return compute(hidden)

    monkeypatch.setattr(model.transformer, "text_keys_values", counted)
    engine = Engine(model, slots=8)
    first, second = model.text_encoder.encode(["a cat", "moon"])
    for text in (first, first, second, second, second, first):
        engine.prepare(text, Sampling(), seed=1)
    assert computed == [1, 1, 1], "two prompts, and the empty one"
