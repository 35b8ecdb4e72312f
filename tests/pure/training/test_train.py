"""The whole training as one command: every step finds what it needs where an earlier one left it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from training.train import steps

READ = ("--tokenizer", "--tokens", "--transformer", "--init")
WRITTEN = ("--run", "--out")


def test_every_step_reads_what_an_earlier_one_wrote() -> None:
    there: set[str] = set()
    for _, *flags in steps(Path("data"), Path("runs"), Path("out"), 1):
        given = dict(zip(flags[::2], flags[1::2], strict=True))
        assert {given[flag] for flag in READ if flag in given} <= there, given
        there |= {given[flag] for flag in WRITTEN if flag in given}
    assert "out" in there


def test_every_step_takes_the_flags_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, *flags in steps(Path("data"), Path("runs"), Path("out"), 1):
        monkeypatch.setattr("sys.argv", [module, *flags, "--help"])
        with pytest.raises(SystemExit) as exited:
            importlib.import_module(module).main()
        assert exited.value.code == 0, module
        known = capsys.readouterr().out
        assert all(flag in known for flag in flags if flag.startswith("--")), module
