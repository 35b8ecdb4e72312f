"""``make soak`` and ``make soak-tenants``, briefly: the tools work, and their verdicts and exit codes agree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live_server import ROOT
from tests.server.processes import needs_proc
from tests.star_model.tiny import write_tiny_model

pytestmark = needs_proc

PERIODS, TENANT_PERIODS = 6, 8


def test_a_short_soak_ends_with_a_table_and_a_verdict(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    flags = ("--model", str(model), "--minutes", "0.5", "--periods", str(PERIODS))
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *flags],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    report = run.stdout + run.stderr
    rows = [line.split() for line in run.stdout.splitlines() if re.match(r" +\d+ ", line)]
    assert len(rows) == PERIODS, report
    assert all(len(row) == 9 and float(row[1]) > 10 for row in rows), report
    assert re.search(r"honest requests: .*'200': \d+", run.stdout), report
    # Half a minute is all warm-up: memory and pools of threads may still grow. Nothing else may be wrong.
    wrong = [line for line in run.stdout.splitlines() if line.startswith("WRONG")]
    assert all(re.search("(_mb|threads) grew by", line) for line in wrong), report
    assert run.returncode == (1 if wrong else 0), report
    assert f"verdict: {'not flat' if wrong else 'flat'}" in run.stdout


def test_a_short_soak_of_tenants_loses_nothing() -> None:
    flags = ("--minutes", "0.2", "--periods", str(TENANT_PERIODS), "--lines", "30")
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.tenants", *flags],
        cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    report = run.stdout + run.stderr
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("{"))
    figures = json.loads(line)
    assert len(figures["changes"]) == 5, report
    assert figures["batch_lines"] % 30 == 0 < figures["batch_lines"], report
    assert all(of["images"] > 0 for of in figures["tenants"].values()), report
    # All of it is warm-up: memory and pools of threads may still grow. Nothing else may be wrong.
    wrong = [line for line in run.stdout.splitlines() if line.startswith("WRONG")]
    assert all(re.search("(_mb|threads) grew by", line) for line in wrong), report
    assert run.returncode == (1 if wrong else 0), report
    assert f"verdict: {'not as promised' if wrong else 'nothing lost'}" in run.stdout


@pytest.mark.parametrize(("module", "least"), [("soak", PERIODS), ("tenants", TENANT_PERIODS)])
def test_too_few_samples_are_refused(module: str, least: int) -> None:
    run = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--periods", str(least - 1)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert f"--periods must be at least {least}" in run.stderr
