"""Workers that are killed, idle, loaded and in mid-stream, one of two and both; a server that is told to stop."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.live_server import LiveServer
from tests.processes.load.metrics_page import scrape, settled
from tests.server.processes import alive, needs_proc, wait_until, workers_of
from tests.star_model.tiny import GOLDFISH

pytestmark = needs_proc


@pytest.fixture
def server(slow_workers: LiveServer) -> Iterator[LiveServer]:
    """With both workers up, before and after."""
    wait_for_both(slow_workers)
    yield slow_workers
    wait_for_both(slow_workers)
    assert scrape(slow_workers).at_rest


def wait_for_both(server: LiveServer) -> None:
    wait_until(lambda: scrape(server).total("engine_up") == 2 and scrape(server).at_rest, 120)


def paint(server: LiveServer, seed: int, n: int = 1) -> httpx.Response:
    return httpx.post(
        f"{server.url}/generate", json={"prompt": GOLDFISH, "seed": seed, "n": n}, timeout=120
    )


def codes(answers: Sequence[httpx.Response]) -> Counter[str]:
    return Counter("ok" if a.status_code == 200 else a.json()["error"]["code"] for a in answers)


@contextmanager
def noticed_at_once(server: LiveServer, deaths: int) -> Iterator[None]:
    """Check that so many workers are given up because of their exit, not for their silence."""
    before = server.written.count("SIGKILL")
    yield
    wait_until(lambda: server.written.count("SIGKILL") - before == deaths)


@contextmanager
def hidden(model: Path) -> Iterator[None]:
    """Keep workers that are started from loading the model: however quick they are, none is ready meanwhile."""
    elsewhere = model.with_name("elsewhere")
    model.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(model)


def test_an_idle_worker_that_is_killed_costs_nobody_anything(server: LiveServer) -> None:
    restarts = scrape(server).total("engine_restarts_total")
    os.kill(workers_of(server.process.pid)[0], signal.SIGKILL)
    wait_until(lambda: scrape(server).total("engine_up") == 1)
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert paint(server, 1).status_code == 200
    wait_for_both(server)
    assert scrape(server).total("engine_restarts_total") == restarts + 1


def test_a_loaded_worker_takes_with_it_what_it_had_begun_and_nothing_else(
    server: LiveServer,
) -> None:
    """Under load, one worker freezes, and the other serves all that the first was not given; then it is killed."""
    victim = workers_of(server.process.pid)[0]
    with ThreadPoolExecutor(24) as pool:
        answers = [pool.submit(paint, server, seed) for seed in range(24)]
        wait_until(lambda: scrape(server).total("requests_running") == 8)
        os.kill(victim, signal.SIGSTOP)
        wait_until(lambda: sum(not answer.done() for answer in answers) <= 4)
        page = settled(server)
        begun, given = int(page.total("requests_running")), int(page.total("requests_waiting"))
        assert begun > 0
        assert begun + given <= 4, "a worker that is slow must not hoard"
        with noticed_at_once(server, 1):
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: scrape(server).total("requests_running") == 0)
    results = [answer.result() for answer in answers]
    assert codes(results) == Counter(ok=24 - begun, engine_dead=begun)
    for seed, answer in enumerate(results):
        if answer.status_code == 200:
            assert answer.json()["data"] == paint(server, seed).json()["data"]
        else:
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1


def test_with_both_workers_gone_a_stream_ends_and_what_waits_is_served_after_the_restart(
    server: LiveServer, slow_model: Path
) -> None:
    victims = workers_of(server.process.pid)
    body = {"prompt": GOLDFISH, "n": 10, "stream": True, "partial_images": 3}
    with (
        ThreadPoolExecutor(12) as pool,
        httpx.stream("POST", f"{server.url}/generate", json=body, timeout=120) as stream,
    ):
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("event: "))
        for victim in victims:
            os.kill(victim, signal.SIGSTOP)
        waiting = [pool.submit(paint, server, seed) for seed in range(12)]
        wait_until(lambda: scrape(server).total("requests_waiting") == 12)
        with hidden(slow_model):
            with noticed_at_once(server, 2):
                for victim in victims:
                    os.kill(victim, signal.SIGKILL)
                events = [
                    json.loads(line.removeprefix("data: "))
                    for line in lines
                    if line.startswith("data: ")
                ]
            assert events[-1]["error"]["code"] == "engine_dead"
            assert sum(event.get("type") == "image_generation.completed" for event in events) < 10

            assert httpx.get(f"{server.url}/livez").status_code == 200
            assert httpx.get(f"{server.url}/readyz").status_code == 503
            refused = paint(server, 99)
            assert (refused.status_code, codes([refused])) == (503, {"engine_dead": 1})
            assert int(refused.headers["retry-after"]) >= 1
        assert codes([answer.result() for answer in waiting]) == {"ok": 12}
    assert not any(alive(victim) for victim in victims)
