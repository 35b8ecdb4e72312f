"""What the benchmarks measure, on a model so small that they take no time. No duration is judged."""

from __future__ import annotations

import time

import pytest
import torch

from benchmarks import (
    bench_compile,
    bench_draft,
    bench_engine,
    bench_precision,
    bench_reference,
    bench_scheduling,
    bench_shares,
)
from benchmarks.stopwatch import Stopwatch
from server.commands.capacity import CountedTimes
from server.commands.plan import Plan
from star_model.cost import DEVICES
from star_model.engine.compilation import compile_networks
from star_model.engine.engine import Engine
from star_model.families.registry import PRESETS
from star_model.model import StarModel
from tests.star_model.tiny import build_tiny_model

SCALES = ["scale 1x1", "scale 2x2", "scale 5x5", "scale 7x7"]


def test_the_engine_is_timed_stage_by_stage() -> None:
    found = bench_engine.run(
        build_tiny_model(), batch=2, mode="fast", repeats=2, tick=time.perf_counter
    )
    assert list(found) == ["text", "prepare", *SCALES, "decode", "total"]
    assert min(found.values()) > 0


def test_the_engine_and_the_plain_loop_paint_the_same() -> None:
    model = build_tiny_model()
    found = bench_reference.compare(
        model, model, batch=2, mode="fast", repeats=2, tick=time.process_time
    )
    assert found["same"] == found["images"] == 6, "two images in a warm-up and in two repeats"


def test_lockstep_counts_what_guidance_changes() -> None:
    model = build_tiny_model()
    exact = Engine(model, slots=1)
    same, psnr, faster = bench_precision.compare(exact, Engine(model, slots=1), 2)
    assert same == [1.0] * 4
    assert psnr == float("inf")
    assert list(faster) == ["scales", "last scale", "decoder"]
    same, _, _ = bench_precision.compare(exact, Engine(model, slots=1), 2, unguided_scales=1)
    assert same[:3] == [1.0] * 3
    assert same[3] < 1.0


def test_callers_and_what_they_get_are_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_shares, "_IMAGES", 300)
    config = PRESETS["star-512"]
    times = CountedTimes(config, DEVICES["h200"], efficiency=0.5)
    rows = bench_shares.simulate(times, config, slots=8)
    by = {(row["load"], row["caller"]): row for row in rows}
    alone = by["one alone", "one"]["p50_ms"]
    assert by["beside batch work", "one"]["p50_ms"] < 2 * alone
    assert by["beside one that queues 2000", "one"]["p50_ms"] < 8 * alone
    queues = [by["beside three that queue", f"queue {i}"]["share"] for i in range(3)]
    assert max(queues) - min(queues) < 0.05


def test_a_draft_is_compared_with_the_whole_image() -> None:
    drafts = bench_draft.measure(Engine(build_tiny_model(), slots=1), 2)
    assert list(drafts) == [1, 2]
    for found in drafts.values():
        assert found["times_faster"] > 0
        assert 0 < found["psnr_db"] < 100
        assert found["thumbnail_psnr_db"] > 0


def test_a_stopwatch_reports_medians_and_ratios_of_neighbours() -> None:
    ticks = iter([0.0, 1.0, 1.0, 3.0, 3.0, 5.0, 5.0, 9.0, 9.0, 10.0, 10.0, 15.0])
    watch = Stopwatch(torch.device("cpu"), lambda: next(ticks))
    for _ in range(3):
        assert watch.time("a", lambda: "result") == "result"
        watch.time("b", lambda: None)
    assert watch.medians() == {"a": 1000.0, "b": 4000.0}
    assert watch.ratio("b", "a") == 2.0


@pytest.mark.usefixtures("fresh_compiler")
def test_what_is_compiled_is_compared_pair_by_pair() -> None:
    plain, compiled = build_tiny_model(), build_tiny_model()
    compile_networks(compiled, "eager")
    found = bench_compile.compare(plain, compiled, batch=1, repeats=2, tick=time.process_time)
    assert found["same_tokens"] == 1.0
    assert found["ratio scales"] > 0


def test_the_engine_makes_every_step_that_a_simulation_comes_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_tiny_model()
    decoded: list[int] = []
    decode = StarModel.decode

    def counted(self: StarModel, f_hats: torch.Tensor) -> torch.Tensor:
        decoded.append(len(f_hats))
        return decode(self, f_hats)

    monkeypatch.setattr(StarModel, "decode", counted)
    rows = bench_scheduling.with_the_engine(
        model, Plan(slots=3), mode="fast", requests=30, tick=time.process_time
    )
    assert [(r["load"], r["strategy"]) for r in rows[:4]] == [
        (0.3, "one"), (0.3, "whole"), (0.3, "continuous"), (0.6, "one"),
    ]  # fmt: skip
    assert sum(decoded) == 20 * 3 + 30 * len(rows), (
        "capacity is found with twenty times as many as slots"
    )
    by = {(r["load"], r["strategy"]): r for r in rows}
    assert by[0.3, "one"]["batch"] == 1.0
    assert by[1.2, "continuous"]["batch"] > by[0.3, "continuous"]["batch"]
