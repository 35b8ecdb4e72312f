"""The step to a larger picture: what is compared differs in positions alone, and the measurements are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from star_model.rope import rope_table
from star_model.scales import ScaleSchedule
from star_model.transformer import StarTransformer
from tests.training.test_training import CONFIG, RECIPE, batch, trainer
from training import resolution_step
from training.resolution_step import counted_positions, learn, place, table
from training.run import Run
from training.transformer_trainer import Trainer

SCHEDULE = ScaleSchedule((1, 2, 4, 8))


def test_counted_positions_are_one_apart_at_every_scale() -> None:
    counted = counted_positions(SCHEDULE, 10_000.0)
    normalized = rope_table(SCHEDULE, theta=10_000.0, norm=7)
    assert counted.shape == normalized.shape
    last = slice(SCHEDULE.offsets[3], SCHEDULE.offsets[4])
    torch.testing.assert_close(counted[:, last], normalized[:, last])  # seven steps across, either way
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
    """A scorer that notes when it was asked."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def scores(self, _: Trainer) -> dict[str, float]:
        self.asked.append(len(self.asked))
        return {"1x1": 2.5, "found_small": 0.5, "found": len(self.asked) / 10}


class Endless(torch.utils.data.Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index)


def test_it_is_measured_before_the_step_and_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resolution_step, "Examples", lambda *_: Endless())
    monkeypatch.setattr(
        resolution_step, "batches", lambda _, *, start, stop, batch_size: map(batch, range(start, stop))
    )
    run = Run(tmp_path, {}, RECIPE.steps, RECIPE.history)
    scorer = Counting()
    learn(run, trainer(), scorer, None)  # type: ignore[arg-type]
    measured = [line for line in run.log() if "found" in line]
    small = RECIPE.stages[0].steps
    assert measured[0]["step"] == small
    assert measured[-1]["step"] == RECIPE.steps
    lines = table(run.log(), small).splitlines()
    assert lines[0] == "| updates | minutes | 1x1 | found_small | found |"
    assert lines[2].startswith("| 0 | 0.0 | 2.50 | 50% | 10% |")
    assert len(lines) == 2 + len(measured)
    # Again, it has nothing left to do.
    again = Counting()
    learn(Run(tmp_path, {}, RECIPE.steps, RECIPE.history), trainer(), again, None)  # type: ignore[arg-type]
    assert not again.asked
