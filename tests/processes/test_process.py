"""The real thing: a server process, its worker process, a tiny model of real code, signals."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.live_server import ROOT, LiveServer, free_port, running_server
from tests.server.processes import alive, needs_proc, wait_until, workers_of
from tests.star_model.tiny import write_tiny_model

pytestmark = needs_proc


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("process") / "model")


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[LiveServer]:
    flags = ("--model", str(model), "--threads", "1", "--log-format", "json")
    with running_server(*flags, log=tmp_path / "log") as running:
        yield running


def test_it_paints_survives_its_worker_and_leaves_nothing_behind(server: LiveServer) -> None:
    body = {"prompt": "a red apple", "seed": 1}
    png = {"accept": "image/png"}
    with httpx.Client(base_url=server.url, timeout=60) as http:
        first = http.post("/generate", json=body, headers=png)
        assert first.status_code == 200
        picture = Image.open(io.BytesIO(first.content))
        assert picture.size == (28, 28)
        card = http.get("/v1/models").json()["data"][0]
        assert (card["id"], card["mode"], card["size"]) == ("tiny", "deterministic", "28x28")
        other = http.get("/livez", headers={"host": "evil.example.org"})
        assert other.json()["error"]["code"] == "host_not_allowed", "it listens on loopback"
        assert http.get("/metrics").text.count("star_scale_step_duration_seconds_count{") == 4
        long = http.post("/generate", json={"prompt": "apple " * 30, "seed": 1}).json()
        assert "left out" in long["warnings"][0]

        # Killed in the middle of work: what it held fails, and its successor paints the same image.
        (worker,) = workers_of(server.process.pid)
        os.kill(worker, signal.SIGSTOP)
        answers: list[httpx.Response] = []
        busy = threading.Thread(target=lambda: answers.append(http.post("/generate", json=body)))
        busy.start()
        wait_until(lambda: "star_requests_waiting 1.0" in http.get("/metrics").text)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: http.get("/readyz").status_code == 503, 5)
        assert http.get("/livez").status_code == 200
        assert http.post("/generate", json=body).json()["error"]["code"] == "engine_dead"
        busy.join(90)  # it had not left the queue, so it is served after all
        assert answers[0].status_code == 200
        assert http.post("/generate", json=body, headers=png).content == first.content
        assert 'star_engine_restarts_total{worker="0"} 1.0' in http.get("/metrics").text

        # SIGTERM under load: each request is either painted or told to go elsewhere.
        answers.clear()
        load = [
            threading.Thread(
                target=lambda: answers.append(http.post("/generate", json=body | {"n": 10}))
            )
            for _ in range(4)
        ]
        for thread in load:
            thread.start()
        wait_until(lambda: "star_requests_running 0.0" not in http.get("/metrics").text)
        (worker,) = workers_of(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        for thread in load:
            thread.join(60)
    assert server.process.wait(30) == 0
    assert not alive(worker)
    codes = {a.status_code if a.status_code == 200 else a.json()["error"]["code"] for a in answers}
    assert len(answers) == 4
    assert 200 in codes
    assert codes <= {200, "draining"}
    assert '"event": "stopped"' in server.written
    assert "Traceback" not in server.written


def serve(*flags: str) -> subprocess.Popen[str]:
    """A server that is not expected to get ready."""
    return subprocess.Popen(
        [sys.executable, "-m", "server", "serve", "--port", str(free_port()), *flags],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_worker_does_not_outlive_a_server_that_is_killed(model: Path) -> None:
    workers: list[int] = []

    def started() -> bool:
        workers[:] = workers_of(process.pid)
        return bool(workers)

    with serve("--model", str(model), "--log-format", "json") as process:
        try:
            wait_until(started)
        finally:
            process.kill()
        wait_until(lambda: not any(alive(worker) for worker in workers))


@pytest.mark.parametrize("damage", ["missing", "no configuration", "damaged"])
def test_a_model_that_cannot_be_loaded_is_one_sentence(tmp_path: Path, damage: str) -> None:
    directory = tmp_path / "model"
    if damage != "missing":
        directory.mkdir()
    if damage == "damaged":
        (directory / "config.json").write_text("{")
    with serve(
        "--model", str(directory), "--log-format", "json", "--log-level", "error"
    ) as process:
        try:
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 2
    assert error.startswith("star-server: ")
    assert str(directory) in error
    assert error.count("\n") == 1
