"""Lessons with mistakes in them: what is seen, and what is right after it."""

from __future__ import annotations

import torch
from torch import Tensor

from star_model.config import TokenizerConfig
from star_model.networks.quantizer import MultiScaleQuantizer
from star_model.scales import ScaleSchedule
from training.mistakes import Lesson, make_lesson

SCHEDULE = ScaleSchedule((1, 2, 3, 4, 6, 8))


def quantizer() -> MultiScaleQuantizer:
    torch.manual_seed(0)
    made = MultiScaleQuantizer(
        TokenizerConfig(vocab_size=256, latent_channels=4, base_channels=8, num_groups=1), SCHEDULE
    )
    for parameter in made.phi.parameters():
        if parameter.ndim == 4:
            torch.nn.init.dirac_(parameter)
        else:
            torch.nn.init.zeros_(parameter)
    return made.requires_grad_(False)


def pictures(q: MultiScaleQuantizer, count: int = 16) -> list[Tensor]:
    """Token maps of smooth random latents."""
    rough = torch.randn(count, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    return q.encode(torch.nn.functional.interpolate(rough, size=(8, 8), mode="bilinear"))


def lesson(
    most: float, clean: float, seed: int = 0, scales: int = 6, softness: float = 0.0
) -> tuple[Lesson, Tensor, Tensor]:
    """A lesson, the clean inputs, and what the pictures are meant to be (B, z, P, P)."""
    q = quantizer()
    maps = pictures(q)
    made = make_lesson(
        q,
        maps,
        scales,
        most=most,
        clean=clean,
        softness=softness,
        generator=torch.Generator().manual_seed(seed),
    )
    *_, goal = q.f_hats(maps)
    return made, q.teacher_forcing_input(maps[:scales]), goal


def test_without_mistakes_it_is_teacher_forcing() -> None:
    made, inputs, _ = lesson(most=0.5, clean=1.0)
    assert made.clean.all()
    assert torch.equal(made.candidates[:, :, 0], torch.cat(pictures(quantizer()), dim=1))
    torch.testing.assert_close(made.inputs, inputs)


def test_a_lesson_of_fewer_scales_is_a_prefix() -> None:
    made, _, _ = lesson(most=0.0, clean=0.0, scales=4)
    whole, _, _ = lesson(most=0.0, clean=0.0)
    assert torch.equal(made.candidates, whole.candidates[:, : SCHEDULE.offsets[4]])
    torch.testing.assert_close(made.inputs, whole.inputs[:, : SCHEDULE.offsets[4] - 1])


def test_targets_make_up_for_the_mistakes_before_them() -> None:
    made, inputs, goal = lesson(most=0.6, clean=0.3)
    q, end = quantizer(), SCHEDULE.offsets[-2]
    assert 0 < made.clean.sum() < len(made.clean)
    wrong = ~made.clean
    torch.testing.assert_close(made.inputs[made.clean], inputs[made.clean])
    assert (made.inputs[wrong] - inputs[wrong]).abs().mean() > 0.1 * inputs.abs().mean()
    # What the last scale sees of a spoiled picture is off; its right tokens bring it nearer to what was meant.
    seen = made.inputs[:, end - 1 :].transpose(1, 2).reshape(-1, 4, 8, 8)
    mended = seen + q.contribution(made.candidates[:, end:, 0], len(SCHEDULE) - 1)
    before = (seen - goal)[wrong].square().mean()
    assert (mended - goal)[wrong].square().mean() < 0.7 * before


def test_the_same_seed_makes_the_same_lesson() -> None:
    (a, *_), (b, *_), (other, *_) = (
        lesson(0.3, 0.3, seed=5),
        lesson(0.3, 0.3, seed=5),
        lesson(0.3, 0.3, seed=6),
    )
    assert torch.equal(a.inputs, b.inputs)
    assert torch.equal(a.candidates, b.candidates)
    assert not torch.equal(a.inputs, other.inputs)


def test_soft_targets_are_the_likelier_the_nearer_they_are() -> None:
    made, _, goal = lesson(most=0.3, clean=0.3, softness=0.4)
    q = quantizer()
    hard, _, _ = lesson(most=0.3, clean=0.3)
    assert torch.equal(hard.weights, torch.ones_like(hard.candidates, dtype=torch.float32))
    torch.testing.assert_close(made.weights.sum(dim=2), torch.ones(made.weights.shape[:2]))
    assert (made.weights.diff(dim=2) <= 0).all()
    assert torch.equal(made.candidates[~made.clean][:, :, 0], hard.candidates[~made.clean][:, :, 0])
    # The very first token stands for the mean of the whole latent.
    rest = goal.mean(dim=(2, 3))
    errors = (
        (q.codebook.weight[made.candidates[:, 0]] - rest.unsqueeze(1)).square().sum(dim=2)
    )  # (B, K)
    nearest = errors[:, :1]
    expected = torch.exp(-(errors - nearest) / (0.4 * nearest.mean()))
    torch.testing.assert_close(
        made.weights[:, 0] / made.weights[:, 0, :1], expected, rtol=1e-3, atol=1e-5
    )
