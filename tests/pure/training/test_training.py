"""The trainers: what they optimize is what the engine runs, and a stopped run continues to the same weights."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from star_model.config import (
    ModelConfig,
    PatchTokenizerConfig,
    TextEncoderConfig,
    TokenizerConfig,
    TransformerConfig,
)
from star_model.engine.kv_cache import KVCache
from star_model.networks.tokenizers import build_tokenizer
from star_model.scales import ScaleSchedule
from training import train_transformer, transformer_trainer
from training.mistakes import Lesson
from training.muon import Muon, orthogonalize
from training.run import Run, learning_rate
from training.teacher_forcing import TeacherForcing
from training.tokenize import Array, Text, TokenSet
from training.train_tokenizer import TokenizerRecipe
from training.train_tokenizer import Trainer as TokenizerTrainer
from training.train_transformer import stage_of
from training.transformer_trainer import Batch, Stage, TransformerRecipe, interest
from training.transformer_trainer import Trainer as TransformerTrainer

CPU = torch.device("cpu")
CONFIG = ModelConfig(
    name="test",
    patch_nums=(1, 2, 3, 4),
    transformer=TransformerConfig(
        depth=2, num_heads=1, text_dim=16, rope_norm=4.0, place_features=True
    ),
    tokenizer=TokenizerConfig(
        vocab_size=32,
        latent_channels=4,
        base_channels=8,
        channel_multipliers=(1, 2),
        num_groups=1,
        attention=False,
    ),
    text_encoder=TextEncoderConfig(family="sentence", max_tokens=6),
)
RECIPE = TransformerRecipe(stages=(Stage(3, 3, 2, whole=3), Stage(4, 3, 2, kept=5, whole=3)))

PATCHES = PatchTokenizerConfig(
    vocab_size=32,
    latent_channels=4,
    patch_size=16,
    width=32,
    encoder_blocks=1,
    decoder_blocks=1,
    num_heads=2,
    refine_channels=16,
    refine_blocks=1,
)


class FakeTokens(TokenSet):
    """Two scenes that are all zeros."""

    def __init__(self) -> None:
        self.empty = self.captioned(0, 0)[1]

    def __len__(self) -> int:
        return 2

    def captioned(self, index: int, turn: int) -> tuple[Array, Text]:
        text = np.zeros((6, 16), np.float16), 3, np.zeros(16, np.float32)
        return np.zeros(CONFIG.schedule.num_tokens, np.uint16), text


def trainer() -> TransformerTrainer:
    torch.manual_seed(0)
    vqvae = build_tokenizer(CONFIG).eval().requires_grad_(False)
    return TransformerTrainer(CONFIG, RECIPE, vqvae, CPU)


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, 32, (2, CONFIG.schedule.num_tokens), generator=generator),
        torch.randn(2, 6, 16, generator=generator),
        torch.tensor([3, 6]),
        torch.randn(2, 16, generator=generator),
    )


def wake(model: torch.nn.Module) -> None:
    """Give the branches that start at zero random weights, so that a wrong one shows."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


@torch.no_grad()
def step_by_step(t: TransformerTrainer, example: Batch) -> Tensor:
    """Logits (L, V) of the first image of ``example``, one scale at a time over a slot, all tokens given."""
    tokens, hidden, lengths, pooled = example
    cache = KVCache(CONFIG, slots=1, device=CPU, dtype=torch.float32)
    slot = cache.allocate()
    mask = torch.arange(6) < lengths[0]
    text = t.model.text_keys_values(hidden[:1]).repeat(1, 1, 2, 1, 1, 1)
    for row in (0, 1):
        cache.write_text(slot, row, text[:, :, row], mask)
    maps = tokens[:1].tensor_split(CONFIG.schedule.offsets[1:-1], dim=1)
    f_hats = [None, *t.quantizer.f_hats(maps)]
    logits = []
    for scale in range(len(CONFIG.schedule)):
        f_hat = f_hats[scale]
        if f_hat is None:
            x = t.model.embed_start(pooled[:1])
        else:
            x = t.model.embed_scale(t.quantizer.next_input(f_hat, scale), scale)
        out = t.model(x.repeat(2, 1, 1), t.model.rope_of(scale), cache.view([slot], scale))
        logits.append(out[0])
    return torch.cat(logits)


def losses_of(t: TransformerTrainer, example: Batch, positions: Tensor) -> Tensor:
    """Losses (B, N) of ``example`` as it is, without mistakes."""
    tokens, hidden, lengths, pooled = example
    inputs = t.quantizer.teacher_forcing_input(
        tokens.tensor_split(CONFIG.schedule.offsets[1:-1], dim=1)
    )
    hard = tokens.unsqueeze(2)
    lesson = Lesson(inputs, hard, torch.ones(hard.shape), torch.ones(len(tokens), dtype=torch.bool))
    return t.loss(lesson, (hidden, lengths, pooled), positions)


def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep half precision away, so that equal means equal."""
    monkeypatch.setattr(transformer_trainer, "autocast", lambda _: contextlib.nullcontext())


def test_teacher_forcing_computes_what_the_engine_steps_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    t = trainer()
    wake(t.model)
    example = batch(0)
    expected = torch.nn.functional.cross_entropy(
        step_by_step(t, example), example[0][0], reduction="none"
    )
    in_float32(monkeypatch)
    positions = torch.arange(CONFIG.schedule.num_tokens)
    losses = losses_of(t, example, positions)
    torch.testing.assert_close(losses[0].detach(), expected, atol=1e-4, rtol=1e-4)


def test_a_scale_does_not_see_finer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    t = trainer()
    wake(t.model)
    in_float32(monkeypatch)
    example = batch(0)
    changed = example[0].clone()
    start = CONFIG.schedule.offsets[2]
    changed[:, start:] = (changed[:, start:] + 1) % 32
    positions = torch.arange(CONFIG.schedule.num_tokens)
    before = losses_of(t, example, positions)[:, :start]
    after = losses_of(t, (changed, *example[1:]), positions)[:, :start]
    torch.testing.assert_close(before, after)


def test_left_out_tokens_are_left_out_as_queries_only_of_fine_scales() -> None:
    t = trainer()
    positions = t.positions(4, RECIPE.stages[1])
    whole = CONFIG.schedule.offsets[3]
    assert positions[:whole].tolist() == list(range(whole))
    assert len(positions) == whole + 5
    assert positions.tolist() == sorted(set(positions.tolist()))
    assert not torch.equal(positions, t.positions(5, RECIPE.stages[1]))


def test_tokens_near_the_border_and_of_fine_scales_are_left_out_more_often() -> None:
    schedule = ScaleSchedule((1, 4, 16))
    weights = interest(schedule, 1)
    assert len(weights) == 16 + 256
    coarse, fine = weights[:16].view(4, 4), weights[16:].view(16, 16)
    assert coarse[0, 0] == coarse[1, 1] / 4 == 4 * fine[0, 0]
    assert (fine[2:14, 2:14] == coarse[1, 1] / 4).all()
    assert (fine[:2] == fine[5, 15]).all()
    assert (fine[2, 2] / fine[1, 2]).item() == 4


def test_a_resumed_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    stages = [RECIPE.stages[0]] * 3 + [RECIPE.stages[1]] * 3

    def go_on(directory: Path, until: int) -> TransformerTrainer:
        run, t = Run(directory, {"recipe": 1}, 6), trainer()
        first = 0
        if state := run.resume():
            t.load(state)
            first = state["step"]
        for step in range(first, until):
            t.step(step, batch(step), stages[step], RECIPE.rate(step))
        run.save(until, **t.state())
        return t

    whole = go_on(tmp_path / "whole", 6)
    go_on(tmp_path / "parts", 2)
    parts = go_on(tmp_path / "parts", 6)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name
    for name, value in whole.average.items():
        assert torch.equal(value, parts.average[name]), name


def test_a_run_refuses_other_settings(tmp_path: Path) -> None:
    Run(tmp_path, {"lr": 1}, 5).save(1)
    with pytest.raises(SystemExit, match=r"other settings \(lr\)"):
        Run(tmp_path, {"lr": 2}, 5).resume()


def test_a_run_may_change_its_future_but_not_its_past(tmp_path: Path) -> None:
    def run(*stages: Stage) -> Run:
        recipe = TransformerRecipe(warmup=1, stages=stages)
        return Run(tmp_path, {}, recipe.steps, recipe.history)

    run(Stage(3, 4, 2), Stage(4, 3, 2)).save(5)
    for longer in [
        (Stage(3, 4, 2), Stage(4, 9, 2)),
        (Stage(3, 4, 2), Stage(4, 1, 2), Stage(3, 9, 2)),
    ]:
        assert run(*longer).resume()
    for other in [
        (Stage(3, 5, 2), Stage(4, 3, 2)),
        (Stage(3, 4, 2), Stage(4, 9, 2, rates=(0.9, 0.5))),
    ]:
        with pytest.raises(SystemExit, match="the first 5 updates"):
            run(*other).resume()


def test_the_log_of_steps_after_the_saved_one_is_dropped(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, 5)
    run.record(1, loss=3.0)
    run.save(1)
    run.record(2, loss=2.0)
    again = Run(tmp_path, {}, 5)
    again.resume()
    assert [line["step"] for line in again.log()] == [1]


def test_the_time_left_is_the_clock_s_where_that_ends_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, {}, 10**9, minutes=10)
    run.record(1, loss=3.0)
    said = capsys.readouterr().out
    assert said.startswith("step 1  loss 3  ")
    assert int(said.split("s/step")[1].split()[0]) <= 10


def test_the_tokenizer_learns_one_batch() -> None:
    recipe = TokenizerRecipe(warmup=1, codebook_at=0.3, ramp_from=0.4, ramp_until=0.6)
    config = dataclasses.replace(CONFIG, tokenizer=PATCHES, patch_nums=(1, 2, 4, 4))
    t = TokenizerTrainer(config, recipe, CPU)
    torch.manual_seed(3)
    images = torch.rand(2, 3, 1, 2).repeat_interleave(64, 2).repeat_interleave(32, 3) * 2 - 1
    values = [t.step(step, images, step / 60) for step in range(60)]
    assert values[-1]["psnr"] > values[0]["psnr"] + 3
    assert [v["commitment"] > 0 for v in values] == [step >= 18 for step in range(60)]
    assert 0 < values[-1]["codebook_used"] <= 1


def test_the_decoder_comes_to_see_the_tokens_alone() -> None:
    recipe = TokenizerRecipe(codebook_at=0.1, ramp_from=0.2, ramp_until=0.4)
    assert [recipe.quantized(p) for p in (0.1, 0.2, 0.4, 1.0)] == [0.0, 0.0, 1.0, 1.0]
    assert recipe.quantized(0.3) == pytest.approx(0.5)
    rates = [recipe.rate(100, p) for p in (0.0, 0.3, 0.65, 1.0)]
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.01])
    assert recipe.rate(0, 0.0) == pytest.approx(1 / recipe.warmup)


def test_a_stage_ends_by_the_clock_where_minutes_are_given() -> None:
    """Of 2 minutes the first stage has a quarter; each update takes ten seconds here."""
    stages = (Stage(3, 1, 2, share=0.25), Stage(4, 1, 1, rates=(1.0, 0.0), share=0.75))
    recipe = TransformerRecipe(stages=stages, minutes=2.0, warmup=1)
    seconds = [0.0]
    found = []
    for stage, step, rate, _ in train_transformer.updates(
        FakeTokens(), recipe, 0, lambda: seconds[0]
    ):
        found.append((stage.scales, step, round(rate, 2)))
        seconds[0] += 10
    assert [(scales, step) for scales, step, _ in found] == [
        (3 if step < 3 else 4, step) for step in range(12)
    ]
    assert [rate for *_, rate in found[3:6]] == [1.0, 0.89, 0.78]
    seconds[0] = 50.0  # continued later: the first stage is over
    again = next(train_transformer.updates(FakeTokens(), recipe, 5, lambda: seconds[0]))
    assert (again[0].scales, again[1]) == (4, 5)


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 20, 50), (2, 50, 20)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.5


def test_muon_finds_a_kernel() -> None:
    torch.manual_seed(0)
    target, kernel = torch.randn(4, 3, 3, 3), torch.zeros(4, 3, 3, 3, requires_grad=True)
    optimizer = Muon([kernel], lr=0.1)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = learning_rate(step, peak=0.1, warmup=5, total=200)
        optimizer.zero_grad()
        torch.autograd.backward((kernel - target).square().sum())
        optimizer.step()
    assert (kernel - target).abs().max() < 0.05


def test_the_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate(s, peak=1.0, warmup=10, total=100) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[99] < 0.03


def test_the_text_of_teacher_forcing_is_masked_by_length() -> None:
    context = TeacherForcing(torch.zeros(2, 2, 2, 6, 1, 64), torch.tensor([3, 6]))
    assert context.text_mask.flatten(1).sum(1).tolist() == [3, 6]


def test_a_stage_can_be_told_in_words() -> None:
    recipe = TransformerRecipe()
    assert stage_of(["4", "2800", "64", "1", "0.5"]) == dataclasses.replace(
        recipe.stages[0], share=1.0
    )
    assert stage_of(["7", "5000", "24", "0.5", "0"]) == dataclasses.replace(
        recipe.stages[1], share=1.0
    )
    alternating = stage_of(["7", "5000", "24", "0.5", "0"], fine_every=6)
    assert (alternating.fine_every, alternating.whole) == (6, 4)
    assert stage_of(["4", "2800", "64", "1", "0.5"], fine_every=6).fine_every == 1
    with pytest.raises(ValueError, match="at least 1, not 0"):
        stage_of(["7", "5000", "24", "0.5", "0"], fine_every=0)


def test_fine_scales_are_learnt_now_and_then_on_fewer_images() -> None:
    stage = Stage(4, 12, 8, kept=5, whole=2, rates=(1.0, 0.5), fine_every=3)
    updates = [stage.of_update(step) for step in range(12)]
    assert [(u.scales, u.batch_size, u.kept) for u in updates[:4]] == [
        (4, 2, 5),
        (2, 8, 0),
        (2, 8, 0),
        (4, 2, 5),
    ]
    assert {(u.rates, u.fine_every) for u in updates} == {(stage.rates, 1)}
    vqvae = build_tokenizer(CONFIG).eval().requires_grad_(False)
    trainer = TransformerTrainer(CONFIG, TransformerRecipe(stages=(stage,), clean=1.0), vqvae, CPU)
    for step in (0, 1):
        assert ("fine_loss" in trainer.step(step, batch(8), stage, 1.0)) == (step == 0)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("8 5 5 1 0", "scales must be 2 to 7"),
        ("7 0 5 1 0", "updates and images at least 1"),
        ("7 5 5 2 0", "0 to 1"),
        ("7 5 many 1 0", "needs three whole numbers and two rates, got 7 5 many 1 0"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(
    words: str, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train_transformer", "--stage", *words.split()])
    with pytest.raises(SystemExit) as exited:
        train_transformer.main()
    assert exited.value.code == 2
    assert complaint in capsys.readouterr().err
