"""The benchmark of busy machines starts what it says and ends what it started. No duration is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from benchmarks import bench_busy
from benchmarks.bench_busy import PolicyProcess, busy_loops, child_command, measure, ratios_of
from star_model.threads import SPIN_COUNT
from tests.live_server import ROOT
from tests.star_model.tiny import write_tiny_model


class FakeProcess:
    """Takes four seconds an image."""

    def __init__(self, policy: str, asked: list[tuple[str, int, float]]) -> None:
        self.policy = policy
        self.asked = asked

    def generate(self, images: int, limit: float) -> list[float]:
        self.asked.append((self.policy, images, limit))
        return [4000.0] * images


def test_each_policy_has_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    }
    assert child_command("ours", [])[1] == clean
    assert child_command("unset", [])[1] == clean
    assert child_command("passive", [])[1] == clean | {"OMP_WAIT_POLICY": "PASSIVE"}
    assert child_command("300", [])[1] == clean | {"GOMP_SPINCOUNT": "300"}


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown policy 'active': use unset, ours, passive or a"):
        child_command("active", [])


def test_policies_take_turns_until_their_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_busy, "_SETTLE_SECONDS", 0)
    asked: list[tuple[str, int, float]] = []
    fakes = [FakeProcess("unset", asked), FakeProcess("ours", asked)]
    found = measure(cast(list[PolicyProcess], fakes), [0, 1], rounds=3, images=2, limit=15.0)
    turn = [("unset", 2, 15.0), ("ours", 2, 15.0)]
    later = [("unset", 2, 7.0), ("ours", 2, 7.0)]
    assert asked == turn * 2 + later * 2, "16 seconds are up before the third round"
    assert found == {policy: {0: [4000.0] * 4, 1: [4000.0] * 4} for policy in ("unset", "ours")}


def test_busy_loops_end_with_the_context() -> None:
    def fail() -> None:
        with busy_loops(2) as loops:
            started.extend(loops)
            assert [loop.poll() for loop in loops] == [None, None]
            raise KeyboardInterrupt

    started: list[subprocess.Popen[bytes]] = []
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [loop.returncode for loop in started] == [-9, -9]


def test_a_busy_loop_ends_without_its_parent() -> None:
    orphan = [sys.executable, "-c", bench_busy._BUSY_LOOP, "0"]  # 0 is nobody's parent
    subprocess.run(orphan, check=True, timeout=60)


def test_ratios_are_ours_to_idle_and_to_the_default() -> None:
    medians = {"unset": {0: 100.0, 1: 900.0, 4: 950.0}, "ours": {0: 104.0, 1: 208.0, 4: 312.0}}
    assert ratios_of(medians, cores=4) == {"busy_1": 2.0, "busy_all": 3.0, "idle": 1.04}
    assert ratios_of({"ours": medians["ours"]}, cores=4) == {"busy_1": 2.0, "busy_all": 3.0}
    assert ratios_of({"unset": medians["unset"]}, cores=4) == {}


def test_one_run_measures_the_default_and_ours(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    flags = ["--model", str(model), "--rounds", "1", "--images", "2", "--threads", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_busy", *flags],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["benchmark"] == "busy"
    assert last["variables"] == {"unset": {}, "ours": {"GOMP_SPINCOUNT": str(SPIN_COUNT)}}
    assert last["milliseconds"].keys() == {"unset", "ours"}
    assert last["milliseconds"]["ours"].keys() >= {"0", "1", str(last["cores"])}
    assert last["ratios"].keys() == {"busy_1", "busy_all", "idle"}
