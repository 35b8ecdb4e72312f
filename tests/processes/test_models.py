"""Several models in one server process, and one that takes over from another under load."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.live_server import LiveServer, free_port, running_server
from tests.server.processes import alive, needs_proc, wait_until, workers_of
from tests.star_model.tiny import write_tiny_model

pytestmark = needs_proc

KEY = "an-administrators-key"
PATIENCE = 300.0
"""Seconds that a start may take on a machine that has other work too: two models load one after the other."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models ``red`` and ``blue``, which paint the same prompt and seed in their own ways."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_model(folder / "red", name="red")
    write_tiny_model(folder / "blue", name="blue", patch_nums=(1, 2, 3))
    return folder


COMMON = ("--threads", "1", "--slots", "2", "--log-format", "json")


def test_two_models_are_served_side_by_side(models: Path, tmp_path: Path) -> None:
    flags = ("--model", str(models / "red"), "--model", str(models / "blue"), *COMMON)
    body = {"prompt": "a red apple", "seed": 1}
    with (
        running_server(*flags, log=tmp_path / "log", ready_within=PATIENCE) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        assert http.get("/readyz").json()["models"] == {"red": "ready", "blue": "ready"}
        cards = [card for card in http.get("/v1/models").json()["data"] if not card["alias_of"]]
        assert [(card["id"], len(card["scales"])) for card in cards] == [("red", 4), ("blue", 3)]
        answers = {
            name: http.post("/generate", json=body | {"model": name}).json()
            for name in ("red", "blue")
        }
        assert {name: answer["model"] for name, answer in answers.items()} == {
            "red": "red",
            "blue": "blue",
        }
        assert {answer["size"] for answer in answers.values()} == {card["size"] for card in cards}
        assert http.post("/generate", json=body).json()["model"] == "red"

        # One of the two workers dies: its model comes back by itself, and the other has noticed nothing.
        red, blue = workers_of(server.process.pid)
        os.kill(blue, signal.SIGKILL)
        wait_until(lambda: http.get("/readyz").json()["models"]["blue"] == "restarting")
        assert http.post("/generate", json=body).status_code == 200
        refused = http.post("/generate", json=body | {"model": "blue"})
        assert refused.json()["error"]["code"] == "engine_dead"
        wait_until(lambda: http.get("/readyz").json()["models"]["blue"] == "ready")
        again = http.post("/generate", json=body | {"model": "blue"}).json()
        assert again["data"] == answers["blue"]["data"]
        page = http.get("/metrics").text
        assert 'star_engine_restarts_total{model="blue",worker="0"} 1.0' in page
        assert 'star_engine_restarts_total{model="red",worker="0"} 0.0' in page
        assert alive(red)


def test_a_model_that_is_missing_leaves_the_other_serving(models: Path, tmp_path: Path) -> None:
    flags = ("--model", f"{models / 'red'},{models / 'missing'}", *COMMON)
    with (
        running_server(*flags, log=tmp_path / "log", ready_within=PATIENCE) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        wait_until(  # the server is ready before the second model has been looked for
            lambda: http.get("/readyz").json()["models"] == {"red": "ready", "missing": "failed"}
        )
        assert http.post("/generate", json={"prompt": "a red apple"}).status_code == 200
        (failed,) = [m for m in http.get("/startupz").json()["models"] if not m["started"]]
        assert str(models / "missing") in failed["error"]


@pytest.fixture
def swapping(models: Path, tmp_path: Path) -> Iterator[tuple[LiveServer, httpx.Client]]:
    """A server of the model ``red``, and a client of its port for administrators."""
    (tmp_path / "key").write_text(KEY + "\n")
    port = free_port()
    flags = ("--model", str(models / "red"), *COMMON)
    admin = ("--admin-port", str(port), "--admin-key-file", str(tmp_path / "key"))
    with (
        running_server(*flags, *admin, log=tmp_path / "log", ready_within=PATIENCE) as server,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {KEY}"},
            timeout=120,
        ) as client,
    ):
        yield server, client


def test_a_swap_under_load_loses_nothing(
    swapping: tuple[LiveServer, httpx.Client], models: Path
) -> None:
    server, admin = swapping
    painters: list[str] = []
    stop = threading.Event()
    failures: list[str] = []

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=120) as http:
            while not stop.is_set():
                answer = http.post("/generate", json={"prompt": "a red apple", "n": 2})
                if answer.status_code == 200:
                    painters.append(answer.json()["model"])
                else:
                    failures.append(answer.text)

    load = [threading.Thread(target=ask) for _ in range(3)]
    for thread in load:
        thread.start()
    try:
        wait_until(lambda: len(painters) > 3)
        (old,) = workers_of(server.process.pid)
        answer = admin.post("/admin/model", json={"model": str(models / "blue")})
        assert answer.status_code == 200, answer.text
        assert answer.json()["name"] == "blue"
        wait_until(lambda: painters[-1] == "blue")
        wait_until(lambda: not alive(old))
    finally:
        stop.set()
        for thread in load:
            thread.join(120)
    assert failures == []
    assert re.fullmatch(r"(red )+((red|blue) )*(blue )+", " ".join(painters) + " ")
    assert len(workers_of(server.process.pid)) == 1
    assert admin.get("/admin/model").json()["models"][0]["retiring"] == 0
    assert "Traceback" not in server.written


def test_a_swap_that_fails_leaves_the_old_model(
    swapping: tuple[LiveServer, httpx.Client], models: Path
) -> None:
    server, admin = swapping
    answer = admin.post("/admin/model", json={"model": str(models / "missing")})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "model_not_loaded"
    assert str(models / "missing") in error["message"]
    assert '"swap failed, the old model goes on"' in server.written
    with httpx.Client(base_url=server.url, timeout=60) as http:
        assert http.post("/generate", json={"prompt": "a red apple"}).json()["model"] == "red"
        assert 'star_model_swaps_total{outcome="failed"} 1.0' in http.get("/metrics").text
        assert http.post("/admin/model", json={"model": "x"}).status_code == 404
    assert admin.get("/admin/model", headers={"authorization": ""}).status_code == 401
    wait_until(lambda: len(workers_of(server.process.pid)) == 1)
