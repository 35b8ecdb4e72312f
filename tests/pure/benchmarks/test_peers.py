"""How servers are compared: the sleeping device, the log of what is painted, the clients, and what is made of both."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

import pytest

from benchmarks.bench_peers import COLUMNS, Results, table
from benchmarks.peers.clients import Client, Load, arrivals, percentile, summary
from benchmarks.peers.contenders import CONTENDERS, Running
from benchmarks.peers.painters import (
    PaintLog,
    Request,
    SleepingDevice,
    SleepingModel,
    open_painter,
    png,
    read_log,
    sleeping_model,
)
from benchmarks.peers.star_server import LoggedEngine, SleepingEngine
from tests.server.fakes import FakeEngine, make_job

ALONE = 0.05


def test_a_device_does_one_piece_of_work_after_the_other() -> None:
    now = 10.0
    device = SleepingDevice(lambda: now)
    assert device.queue(2.0) == (10.0, 12.0)
    assert device.queue(1.0) == (12.0, 13.0), "queued behind the first"
    now = 20.0
    assert device.queue(0.5) == (20.0, 20.5), "an idle device begins at once"


def test_a_sleeping_image_takes_what_the_plan_says_and_a_batch_less_each() -> None:
    model = SleepingModel()
    steps = [model.step(scale, 1) for scale in range(10)]
    assert model.seconds(1) == pytest.approx(sum(steps) + model.decode(1))
    assert 8 * model.seconds(1) > model.seconds(8) > model.seconds(1)
    assert 0.04 < model.seconds(1) < 0.06, "what docs/capacity.md says of one image"


def test_a_sleeping_engine_may_be_slower() -> None:
    normal, slower = sleeping_model("sleeping"), sleeping_model("sleeping:4")
    assert normal is not None
    assert slower is not None
    assert slower.seconds(3) == pytest.approx(4 * normal.seconds(3))
    assert sleeping_model("star-mini") is None


@pytest.mark.parametrize("engine", ["sleeping:fast", "sleeping:0", "sleeping:nan", "sleeping:-1"])
def test_a_wrong_factor_is_refused(engine: str) -> None:
    with pytest.raises(ValueError, match=f"^{engine}: a positive number must follow sleeping:"):
        sleeping_model(engine)


def test_the_server_s_engine_takes_as_long_as_that_of_its_peers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = SleepingModel()
    engine = SleepingEngine(model, slots=2)
    sequences = [
        engine.prepare(engine.encode("a fox"), None, make_job("a"), seed) for seed in (1, 2)
    ]
    assert engine.free_slots == 0
    queued: list[float] = []

    def queue(_: SleepingDevice, seconds: float) -> tuple[float, float]:
        queued.append(seconds)
        return 0.0, 0.0

    monkeypatch.setattr(SleepingDevice, "queue", queue)
    for _ in range(engine.num_scales):
        engine.step(sequences)
    pixels = engine.finish(sequences).wait()
    assert sum(queued) == pytest.approx(model.seconds(2))
    assert [p.data[:3] for p in pixels] == [model.draw(s).tobytes()[:3] for s in (1, 2)]
    assert engine.free_slots == 2


def test_what_is_painted_is_logged_and_what_is_dropped_is_not(tmp_path: Path) -> None:
    log = tmp_path / "painted"
    engine = LoggedEngine(FakeEngine(slots=4, num_scales=1), PaintLog(log))
    kept, dropped = (
        engine.prepare(engine.encode("a fox"), None, make_job("a"), seed) for seed in (7, 8)
    )
    engine.release(dropped)
    engine.step([kept]).wait()
    engine.finish([kept]).wait()
    began, painted = read_log(log)
    assert set(began) == {7, 8}
    assert set(painted) == {7}
    assert painted[7] >= began[7]


def test_a_painter_paints_a_batch_and_logs_it(tmp_path: Path) -> None:
    painter = open_painter("sleeping", tmp_path / "painted")
    images = painter.paint([Request("a fox", 1), Request("a fox", 2)])
    assert [png(image)[:4] for image in images] == [b"\x89PNG"] * 2
    assert images[0].getpixel((0, 0)) != images[1].getpixel((0, 0))
    began, painted = read_log(tmp_path / "painted")
    assert began[1] == began[2]
    assert painted[1] - began[1] == pytest.approx(SleepingModel().seconds(2), abs=1e-5)


def test_arrivals_are_the_same_for_all_and_as_many_as_the_rate_says() -> None:
    plan = arrivals(rate=10, seconds=200, seed=1)
    assert plan == arrivals(rate=10, seconds=200, seed=1)
    assert plan != arrivals(rate=10, seconds=200, seed=2)
    assert len(plan) == pytest.approx(2000, rel=0.1)
    assert plan[-1].at < 200
    assert sum(a.leaves for a in plan) == pytest.approx(200, rel=0.2)
    assert len(arrivals(rate=0.01, seconds=1, seed=1)) == 1


def test_a_percentile_is_a_value_that_was_seen() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile(range(1, 101), 99) == 99
    assert math.isnan(percentile([], 50))


def test_capacity_counts_the_images_of_all_clients(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = 0

    async def one(_: Load) -> Client:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return Client(asked, answered_at=1.0)

    monkeypatch.setattr(Load, "_one", one)
    started = time.monotonic()
    rate = asyncio.run(Load(_running(tmp_path)).capacity(at_once=4, seconds=0.2))
    assert asked / rate == pytest.approx(time.monotonic() - started, rel=0.5)


def test_what_came_of_a_load_is_counted(tmp_path: Path) -> None:
    log = PaintLog(tmp_path / "painted")
    log.began([1, 2, 4, 5], at=100.5)
    log.painted([1, 2, 4], at=101.0)
    clients = [
        Client(1, came_at=100.0, sent_at=100.02, answered_at=100.09, status=200),
        Client(2, came_at=100.0, sent_at=100.02, answered_at=101.0, previewed_at=100.7, status=200),
        Client(3, came_at=100.0, sent_at=100.02, refused_at=100.01, status=429),
        Client(4, came_at=100.0, sent_at=100.02, left_at=100.2),
        Client(5, came_at=100.0, sent_at=100.02, left_at=100.6),
        Client(6, came_at=100.0, sent_at=100.02, status=500),
    ]
    found = summary(clients, _running(tmp_path), ALONE)
    assert found == {
        "images_per_s": pytest.approx(2.0),
        "total_p50": pytest.approx(0.09),
        "total_p99": pytest.approx(1.0),
        "queue_p50": pytest.approx(0.5),
        "queue_p99": pytest.approx(0.5),
        "soon": 0.25,
        "refused": 0.25,
        "refusal_p99": pytest.approx(0.01),
        "failed": 0.25,
        "left": 2,
        "wasted": 1,
        "preview_p50": pytest.approx(0.7),
        "late_p99": pytest.approx(0.02),
    }


def test_rows_are_kept_and_found_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    results = Results(path, "sleeping")
    results.add("capacity", "star", alone=0.1, images_per_s=9.0)
    results.add(
        "load",
        "star",
        load=0.9,
        **summary([Client(1)], _running(tmp_path), ALONE),
        cpu=0.0,
        memory=1 << 20,
    )
    assert "NaN" not in path.read_text("utf-8")
    again = Results(path, "sleeping")
    assert again.rows == results.rows
    assert again.find("load", "star", 0.9) is not None
    assert again.find("load", "star", 0.6) is None
    assert Results(path, "star-mini").rows == [], "another engine's rows are not these"
    lines = table(again).splitlines()
    assert lines[2] == "| star-server | 0.100 | 9.00 |"
    assert lines[-1].startswith("| 90 % | star-server | 0.00 |")
    assert lines[-1].count("|") == len(COLUMNS) + 3


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"engine": "sleeping"}\n{', "utf-8")
    with pytest.raises(
        ValueError, match=r"line 2 of .* is no row of this benchmark: delete it, or"
    ):
        Results(path, "sleeping")


def _running(folder: Path) -> Running:
    return Running(CONTENDERS["star"], "http://127.0.0.1:1", folder / "painted", "mark")
