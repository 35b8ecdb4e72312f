"""``star-server plan --cores``: cores divided among workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.commands.cli import main
from server.commands.cores import Amdahl

LABELS = ("1x1", "2x2", "4x4", "8x8", "16x16", "16x16 #2", "16x16 #3")


def steps(path: Path, threads: int, seconds: float, device: str = "cpu") -> str:
    """A file such as bench_engine prints, of the default model: an image takes so many seconds."""
    each = 1000 * seconds / 8  # seven scales and the decoder
    stages = {f"scale {label}": each for label in LABELS} | {"decode": each}
    found = {
        "device": device,
        "threads": threads,
        "milliseconds": {str(b): {n: v * b for n, v in stages.items()} for b in (1, 4)},
    }
    path.write_text(f"a table\n{json.dumps(found)}\n")
    return str(path)


@pytest.fixture
def measured(tmp_path: Path) -> list[str]:
    """The flags with steps of one thread, 0.6 s an image, and of two, 0.4 s: 0.2 s are fixed, 0.4 s shared."""
    files = steps(tmp_path / "one.txt", 1, 0.6), steps(tmp_path / "two.txt", 2, 0.4)
    return [flag for file in files for flag in ("--step-times", file)]


def divisions(capsys: pytest.CaptureFixture[str], *flags: str) -> list[dict[str, Any]]:
    command = ("plan", "--model", "star-mini", "--requests", "500", "--json", *flags)
    assert main([*command]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["divisions"]
    return found


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main(["plan", "--model", "star-mini", "--requests", "500", *flags]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("cores", [1, 4, 6, 16, 64])
def test_every_division_uses_the_cores_that_there_are(
    capsys: pytest.CaptureFixture[str], measured: list[str], cores: int
) -> None:
    found = divisions(capsys, "--cores", str(cores), "--rps", "0.5", *measured)
    assert all(d["workers"] * d["threads"] <= cores for d in found)
    assert {d["threads"] for d in found} == {
        n for n in (1, 2, 4, 8, 16, cores) if n <= min(cores, 16)
    }
    assert {d["threads"] for d in found if d["measured"]} == {1, 2} & set(range(cores + 1))


def test_more_threads_are_faster_and_more_workers_do_more(
    capsys: pytest.CaptureFixture[str], measured: list[str]
) -> None:
    found = divisions(capsys, "--cores", "8", "--rps", "0.001", *measured)
    by_threads = sorted(found, key=lambda d: d["threads"])
    assert [d["one_image_alone"] for d in by_threads] == pytest.approx([0.6, 0.4, 0.3, 0.25])
    capacities = [d["capacity_rps"] for d in by_threads]
    assert capacities == sorted(capacities, reverse=True)
    assert found[0]["threads"] == 8, "nobody waits at this load, so the fastest is the best"


def test_a_heavy_load_gets_more_workers_than_a_light_one(
    capsys: pytest.CaptureFixture[str], measured: list[str]
) -> None:
    light, heavy = (
        divisions(capsys, "--cores", "16", "--rps", rps, "--p99", "60s", *measured)[0]
        for rps in ("0.2", "22")
    )
    assert light["workers"] < heavy["workers"]
    assert heavy["capacity_rps"] > 22


def test_the_text_names_the_settings_of_serve(
    capsys: pytest.CaptureFixture[str], measured: list[str]
) -> None:
    flags = ["--cores", "2", "--rps", "0.001", "--p99", "5s", "--requests", "500", *measured]
    assert main(["plan", "--model", "star-mini", *flags]) == 0
    text = capsys.readouterr().out
    assert "advice      serve --workers 1 --threads 2" in text
    assert "each worker was measured alone" in text


@pytest.mark.parametrize(
    ("rps", "p99", "advice"),
    [
        ("50", "5s", "more cores: these paint"),
        ("0.1", "100ms", "more cores, or another target: no division meets it"),
    ],
)
def test_what_cannot_be_kept_is_said(
    capsys: pytest.CaptureFixture[str], measured: list[str], rps: str, p99: str, advice: str
) -> None:
    flags = ["--cores", "4", "--rps", rps, "--p99", p99, "--requests", "500", *measured]
    assert main(["plan", "--model", "star-mini", *flags]) == 0
    assert f"advice      {advice}" in capsys.readouterr().out


def test_without_measurements_it_says_which_to_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert "bench_engine --model star-mini --threads 1" in refused(capsys, "--cores", "4")


def test_steps_must_be_of_a_cpu_and_of_different_threads(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gpu = steps(tmp_path / "gpu.txt", 2, 0.1, device="cuda")
    assert "has the steps of a cuda" in refused(capsys, "--cores", "4", "--step-times", gpu)
    one, again = steps(tmp_path / "one.txt", 1, 0.6), steps(tmp_path / "again.txt", 1, 0.5)
    error = refused(capsys, "--cores", "4", "--step-times", one, "--step-times", again)
    assert "again.txt has 1 threads" in error
    assert "one --step-times" in refused(capsys, "--step-times", one, "--step-times", again)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 0.6, 2: 0.4}, Amdahl(0.2, 0.4)),
        ({1: 0.6, 2: 0.4, 4: 0.3}, Amdahl(0.2, 0.4)),
        ({2: 0.4}, Amdahl(0.0, 0.8)),
        ({1: 0.4, 2: 0.4}, Amdahl(0.4, 0.0)),
        ({1: 0.4, 2: 0.5}, Amdahl(0.45, 0.0)),  # threads that hurt: none of it is shared
        ({1: 0.9, 2: 0.4}, Amdahl(0.0, 0.8667)),  # more than shared: none of it is fixed
    ],
)
def test_amdahls_law_is_fitted(seconds: dict[int, float], expected: Amdahl) -> None:
    found = Amdahl.fitted(seconds)
    assert (found.fixed, found.shared) == pytest.approx((expected.fixed, expected.shared), abs=1e-3)
