"""The step to a larger picture: what is compared differs in positions alone, and the measurements are what they say."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from star_model.networks.rope import rope_table
from star_model.networks.transformer import StarTransformer
from star_model.networks.vqvae import VQVAE
from star_model.scales import ScaleSchedule
from tests.pure.training.test_training import CONFIG, CPU, batch
from training.concepts import read_vocabulary
from training.resolution_step import Scorer, counted_positions, learn, place, table
from training.run import Run
from training.tokenize import TokenSet
from training.transformer_trainer import Stage, Trainer, TransformerRecipe

SCHEDULE = ScaleSchedule((1, 2, 4, 8))


def test_counted_positions_are_one_apart_at_every_scale() -> None:
    counted = counted_positions(SCHEDULE, 10_000.0)
    normalized = rope_table(SCHEDULE, theta=10_000.0, norm=7)
    assert counted.shape == normalized.shape
    last = slice(SCHEDULE.offsets[3], SCHEDULE.offsets[4])
    torch.testing.assert_close(
        counted[:, last], normalized[:, last]
    )  # seven steps across, either way
    start = SCHEDULE.offsets[2]
    # The first angle turns by one a column: its cosine and sine at the columns of the 4 x 4 map.
    torch.testing.assert_close(counted[0, start : start + 4, 0], torch.arange(4).float().cos())
    torch.testing.assert_close(counted[1, start : start + 4, 0], torch.arange(4).float().sin())
    assert not torch.equal(counted[:, start], counted[:, start + 1])
    assert not torch.allclose(normalized[:, start + 1], counted[:, start + 1])


def test_nothing_but_the_positions_differs() -> None:
    torch.manual_seed(0)
    normalized = StarTransformer(CONFIG)
    torch.manual_seed(0)
    counted = place(StarTransformer(CONFIG), "counted")
    assert torch.equal(place(normalized, "normalized").rope, normalized.rope)
    assert not torch.equal(normalized.rope, counted.rope)
    for name, weight in normalized.state_dict().items():
        assert torch.equal(weight, counted.state_dict()[name]), name


class Counting:
    """A scorer that counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def scores(self, _: dict[str, Tensor]) -> dict[str, float]:
        self.asked += 1
        return {"1x1": 2.5, "found_small": 0.5, "found": self.asked / 10}


def write_tokens(folder: Path) -> TokenSet:
    """Four scenes of random tokens and captions."""
    tokens, hidden, lengths, pooled = (
        part.repeat(2, *[1] * (part.ndim - 1)).numpy() for part in batch(0)
    )
    shard = folder / "00000000"
    shard.mkdir(parents=True)
    np.save(shard / "tokens.npy", tokens)
    for name, part in {"hidden": hidden, "lengths": lengths, "pooled": pooled}.items():
        np.save(shard / f"{name}.npy", part[:, None])  # one caption each
    np.savez(folder / "empty.npz", hidden=hidden[0], length=3, pooled=pooled[0])
    return TokenSet(folder)


@pytest.mark.training
def test_it_is_measured_before_the_step_and_on_the_way(tmp_path: Path) -> None:
    recipe = TransformerRecipe(stages=(Stage(3, 3, 2, whole=3), Stage(4, 8, 2, kept=5, whole=3)))
    tokens = write_tokens(tmp_path / "tokens")
    vqvae = VQVAE(CONFIG.tokenizer, CONFIG.schedule).eval().requires_grad_(False)
    scorer, run = Counting(), Run(tmp_path / "run", {}, recipe.steps, recipe.history)
    learn(run, Trainer(CONFIG, recipe, vqvae, CPU), cast("Scorer", scorer), tokens)
    measured = [line["step"] for line in run.log() if "found" in line]
    assert measured == [3, 4, 5, 7, 11]
    lines = table(run.log(), 3).splitlines()
    assert lines[0] == "| updates | minutes | 1x1 | found_small | found |"
    assert lines[2] == "| 0 | 0.0 | 2.50 | 50% | 10% |"
    assert [line.split()[1] for line in lines[2:]] == ["0", "1", "2", "4", "8"]
    # Started again, it has nothing left to do.
    again = Run(tmp_path / "run", {}, recipe.steps, recipe.history)
    learn(again, Trainer(CONFIG, recipe, vqvae, CPU), cast("Scorer", scorer), tokens)
    assert scorer.asked == 5


def test_the_few_things_are_some_of_those_that_the_default_model_knows() -> None:
    few = read_vocabulary("few")
    assert len(set(few)) == 20
    assert set(few) < set(read_vocabulary("starter"))
