"""The comparison of servers with the two contenders that need no environment of their own, as processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.live_server import ROOT

FLAGS = ("--loads", "0.5", "--seconds", "2", "--only", "star", "previews", "fastapi")  # fmt: skip


def run(output: Path) -> subprocess.CompletedProcess[str]:
    """Run the benchmark with the sleeping engine; rows go to ``output``."""
    command = [sys.executable, "-m", "benchmarks.bench_peers", *FLAGS, "--output", str(output)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400
    )


def test_contenders_are_compared_and_a_second_run_measures_nothing_again(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    first = run(output)
    assert first.returncode == 0, first.stderr
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [(row["kind"], row["name"]) for row in rows] == [
        (kind, name) for kind in ("capacity", "load") for name in ("star", "previews", "fastapi")
    ]
    for row in rows[3:]:
        assert row["failed"] == row["refused"] == 0
        assert row["total_p99"] >= row["queue_p99"] >= 0
        assert row["memory"] > 10 << 20
        assert row["cpu"] > 0
        assert (row["preview_p50"] is not None) == (row["name"] == "previews")
    assert json.loads(first.stdout.splitlines()[-1])["rows"] == rows
    assert run(output).returncode == 0
    assert len(output.read_text("utf-8").splitlines()) == len(rows)


def test_a_contender_that_is_not_installed_is_named() -> None:
    command = [sys.executable, "-m", "benchmarks.bench_peers", "--only", "nobody"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 2
    assert "invalid choice: 'nobody'" in done.stderr
