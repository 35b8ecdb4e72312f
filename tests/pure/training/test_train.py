"""The whole training as one command: in order, in time, and at toy size from drawings to a model that paints."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from star_model import load_model
from tests.star_model.tiny import tiny_bert
from tests.training.fake_data import mosaic, write_fake_data
from tests.training.toy import TOY, at_toy_size
from training import export, tokenize
from training.train import SHORTEST, UNTIMED, Clock, Step, minutes_of, run, steps, verdict

READ = ("--tokenizer", "--tokens", "--transformer", "--model")
WRITTEN = ("--run", "--out")


def options(folder: Path, **changes: Any) -> argparse.Namespace:
    values = {
        "data": folder / "data", "runs": folder / "runs", "out": folder / "out", "packed": None, "vocabulary": "full",
        "pictures": 2, "device": "cpu", "threads": 1, "minutes": 0.0, "size": "mini", "folder": None,
    }  # fmt: skip
    return argparse.Namespace(**values | changes)


def flags_of(step: Step) -> dict[str, str]:
    return dict(zip(step.arguments[::2], step.arguments[1::2], strict=True))


def test_every_step_reads_what_an_earlier_one_wrote() -> None:
    there: set[str] = set()
    for step in steps(options(Path("nowhere"))):
        given = flags_of(step)
        assert {given[flag] for flag in READ if flag in given} <= there, given
        there |= {given[flag] for flag in WRITTEN if flag in given}
    assert "nowhere/out" in there


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_step_takes_the_flags_that_it_is_given(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in steps(options(Path("nowhere"), device=device)):
        timed = ["--minutes", "1"] if step.share else []
        monkeypatch.setattr("sys.argv", [step.module, *step.arguments, *timed, "--help"])
        with pytest.raises(SystemExit) as exited:
            importlib.import_module(step.module).main()
        assert exited.value.code == 0, step
        known = capsys.readouterr().out
        assert all(flag in known for flag in (*flags_of(step), *timed[:1])), step


def test_the_minutes_are_shared_by_what_is_left() -> None:
    plan = [Step(n, n, (), s) for n, s in (("a", 0.5), ("b", 0.0), ("c", 0.25), ("d", 0.25))]
    assert minutes_of(plan, 0, 10 + UNTIMED) == 5
    assert minutes_of(plan, 1, 10 + UNTIMED) == 0
    assert minutes_of(plan, 2, 4 + UNTIMED) == 2  # others took longer: there is less for all
    assert minutes_of(plan, 3, UNTIMED - 1) == SHORTEST  # 0 would be no limit


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    status = iter([0, 3, 0])

    def fake(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        ran.append(command[2:])
        return subprocess.CompletedProcess(command, next(status))

    monkeypatch.setattr(subprocess, "run", fake)
    plan = [Step("a", "module.a", ("--x", "1"), 0.5), Step("b", "module.b", (), 0.5)]
    with pytest.raises(SystemExit) as exited:
        run(plan, Clock(tmp_path / "clock.json"), 4 + UNTIMED)
    assert exited.value.code == 3
    run(plan, Clock(tmp_path / "clock.json"), 4 + UNTIMED)
    assert [command[0] for command in ran] == ["module.a", "module.b", "module.b"]
    assert ran[0] == ["module.a", "--x", "1", "--minutes", "2.000"]
    assert json.loads((tmp_path / "clock.json").read_text()).keys() == {"a", "b"}


def test_from_drawings_to_a_model_at_toy_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every step runs for a second or two, and the model that comes out paints."""
    at_toy_size(monkeypatch)
    monkeypatch.setattr(tokenize, "SHARD", 8)
    monkeypatch.setattr(export, "CAPTIONS", 200)
    chosen = options(tmp_path, minutes=UNTIMED + 0.1)
    data = write_fake_data(chosen.data, draw=mosaic)
    tiny_bert(16, 64).save(data / "text_encoder")
    run(steps(chosen), Clock(chosen.runs / "clock.json"), chosen.minutes)
    model = load_model(chosen.out, device="cpu", verify=True)
    assert model.config == dataclasses.replace(TOY, name="out")
    assert model.reader is not None
    assert "14 things, from banana to violin" in model.about.description
    assert len(model.about.examples) == 6
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
    assert scores["rendered"]["object"] == 1
    assert scores["backdrops"]["pictures"] == 2
    tuned = torch.load(chosen.runs / "decoder/state.pt", weights_only=True)["model"]
    first = torch.load(chosen.runs / "tokenizer/state.pt", weights_only=True)["model"]
    changed = {n.split(".")[0] for n in tuned if not torch.equal(tuned[n], first[n].half().float())}
    assert changed == {"decoder"}


@pytest.mark.parametrize(
    ("tokenizer", "decoder", "said"),
    [
        ((9.0, 10.5), (), "reconstructions 10.5 dB: not usable yet"),
        ((18.0,), (19.0, 23.7), "reconstructions 23.7 dB"),
        ((), (), ""),
    ],
)
def test_a_training_ends_with_how_good_it_is(
    tmp_path: Path, tokenizer: tuple[float, ...], decoder: tuple[float, ...], said: str
) -> None:
    for step, scores in (("tokenizer", tokenizer), ("decoder", decoder)):
        (tmp_path / step).mkdir()
        lines = ({"step": 1, "loss": 2.0}, *({"step": 2, "validation_psnr": s} for s in scores))
        (tmp_path / step / "log.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines))
    assert verdict(tmp_path).partition(", for")[0] == said
