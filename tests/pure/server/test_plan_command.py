"""``star-server plan`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.commands.cli import main
from server.commands.plan import parse_seconds


def plan(capsys: pytest.CaptureFixture[str], *flags: str, requests: int = 1000) -> dict[str, Any]:
    assert main(["plan", "--requests", str(requests), "--json", *flags]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main(["plan", "--requests", "500", *flags]) == 2
    return capsys.readouterr().err


def measured(path: Path, milliseconds: float) -> Path:
    """A file such as bench_engine prints, of the default model, each step as long."""
    names = ("1x1", "2x2", "4x4", "8x8", "16x16", "16x16 #2", "16x16 #3")
    steps = {f"scale {name}": milliseconds for name in names}
    result = {"milliseconds": {str(b): {"decode": 10.0 * b, **steps} for b in (1, 4)}}
    path.write_text(f"a table\n{json.dumps(result)}\n")
    return path


def test_more_load_needs_more_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    few, many = (plan(capsys, "--rps", rps, "--p99", "2s") for rps in ("20", "100"))
    assert few["gpus"] < many["gpus"]
    for found in (few, many):
        assert found["kept"]
        assert found["p99"] <= 2.0
        assert 0.9 * found["capacity_rps"] >= found["rps"], "some headroom"
    assert few["step_times"] == "modelled, h200 at 50 % of its floor, 5 us to launch a kernel"
    assert "not measured on a h200" in few["left_out"]


def test_launching_kernels_bounds_a_small_model(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--model", "star-mini", "--rps", "20")
    launched, replayed = (plan(capsys, *flags, "--launch-us", us) for us in ("5", "0"))
    # Ten steps of 34 kernels in each of its blocks, 5 us each, and what is beside the transformer.
    assert launched["one_image_alone"] > 10 * 34 * 5e-6
    assert launched["capacity_rps"] < 0.5 * replayed["capacity_rps"]
    assert "launch" not in replayed["step_times"]


def test_a_thousand_images_have_a_price(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "--rps", "20", "--price", "3.6")
    assert found["gpus"] == 1
    assert found["cost_per_1000_images"] == pytest.approx(1000 * 3.6 / 3600 / 20)
    overloaded = plan(capsys, "--rps", "1000", "--gpus", "2", "--price", "3.6")
    assert overloaded["cost_per_1000_images"] == pytest.approx(
        2000 * 3.6 / 3600 / overloaded["capacity_rps"]
    )
    assert plan(capsys, "--rps", "20")["cost_per_1000_images"] is None


def test_a_stricter_promise_needs_no_fewer(capsys: pytest.CaptureFixture[str]) -> None:
    lax, strict = (plan(capsys, "--rps", "60", "--p99", p99) for p99 in ("5s", "150ms"))
    assert lax["gpus"] < strict["gpus"]


def test_a_given_number_of_gpus_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "--rps", "100", "--gpus", "2", "--p99", "1s")
    assert found["gpus"] == 2
    assert not found["kept"]
    assert found["busy"] > 0.95


def test_measured_steps_take_the_place_of_counted_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = measured(tmp_path / "times.json", 10.0)
    found = plan(capsys, "--model", "star-mini", "--step-times", str(file), "--rps", "5")
    assert found["one_image_alone"] == pytest.approx(0.08)
    assert found["memory_bytes"] is None
    assert found["step_times"] == f"measured, {file}"


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "plan",
        "--model",
        "star-512",
        "--gpu",
        "h200",
        "--rps",
        "20",
        "--p99",
        "2s",
        "--requests",
        "500",
    ]
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert "20 images per second of star-512, 99 % within 2 s" in out
    assert "1 x h200" in out
    assert "GB of memory per GPU, 578 MB of it a slot" in out
    assert "cost" not in out
    assert "target      met" in out
    assert "modelled, h200 at 50 % of its floor" in out
    assert main([*asked, "--price", "3.60"]) == 0
    assert "cost        0.05 per thousand images" in capsys.readouterr().out


def test_ways_of_batching_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    rows = plan(capsys, "--compare", requests=200)["loads"]
    assert len(rows) == 16
    overload = {row["strategy"]: row["throughput"] for row in rows if row["load"] == 1.2}
    assert overload["continuous"] > 1.1 * overload["one"]
    assert main(["plan", "--compare", "--requests", "100"]) == 0
    assert "continuous, by scale" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gpu", "b200"], "Unknown GPU b200; known are a100, h100, h200."),
        (["--slots", "400"], "use fewer --slots"),
        (["--p99", "10ms"], "One image alone takes"),
        (["--p99", "2 seconds"], "p99: must be a time such as 2s or 500ms; got 2 seconds."),
        (["--price", "-1"], "price must be a finite number from 0"),
        (["--rps", "0"], "rps"),
        (["--model", "no-such-model"], "no-such-model"),
        (
            ["--step-times", "/nowhere"],
            "does not hold what `python -m benchmarks.bench_engine` prints",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, *flags)


def test_a_file_of_another_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = measured(tmp_path / "times.json", 10.0)
    assert "for star-512" in refused(capsys, "--step-times", str(file))


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2.0), ("500ms", 0.5), ("1.5 s", 1.5), ("4", 4.0), (3.0, 3.0)]
)
def test_durations(text: object, seconds: object) -> None:
    assert parse_seconds(text) == seconds
