"""The real server when it is stopped in its first seconds, or hung up on."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.live_server import ROOT, free_port, running_server
from tests.server.pictures import file_of, photo
from tests.server.processes import alive, needs_proc, wait_until, workers_of
from tests.star_model.tiny import GOLDFISH, write_quick_model

pytestmark = needs_proc


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quick_model(tmp_path_factory.mktemp("start") / "model")


def test_the_log_tells_the_steps_of_a_start(model: Path, tmp_path: Path) -> None:
    flags = ("--model", str(model), "--threads", "1", "--slots", "2", "--log-format", "json")
    with running_server(*flags, log=tmp_path / "log") as server:
        lines = [json.loads(line) for line in server.written.splitlines()]
    events = [line for line in lines if line["event"] != "still loading"]  # on a slow machine
    told = [line["step"] if line["event"] == "loading" else line["event"] for line in events]
    assert told == [
        "listening",
        "importing PyTorch",
        "reading weights and text encoder",
        "allocating slots",
        "generating one image to warm up",
        "ready",
    ]
    weights = next(line for line in lines if line.get("step", "").startswith("reading weights"))
    assert weights["directory"] == str(model)


@contextlib.contextmanager
def started(*flags: str, log: Path, shell: str = 'exec "$@"') -> Iterator[subprocess.Popen[bytes]]:
    """Start a server in a process group of its own, by way of a shell."""
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "server", "serve", *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


INTERRUPTED = """
import importlib.abc, os, runpy, signal, sys

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == point:
            os.kill(os.getpid(), signal.SIGINT)

point = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("server", run_name="__main__", alter_sys=True)
"""
"""Runs the command line that follows, and gets an interrupt when a module is first imported."""


# The last is imported when ``serve`` has begun, and uvicorn has not yet taken the signals.
@pytest.mark.parametrize("point", ["server.commands.cli", "pydantic", "uvicorn.loops.auto"])
def test_an_early_interrupt_ends_it_without_a_traceback(point: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, point, "serve", "--port", "0"]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
    )
    assert done.returncode == 128 + signal.SIGINT
    assert b"Traceback" not in done.stdout


def test_an_interrupt_of_the_group_leaves_a_worker_alone_that_has_just_been_started(
    model: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with started("--port", "0", "--model", str(model), "--threads", "1", log=log) as process:
        wait_until(lambda: len(workers_of(process.pid)) > 0)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    assert "Traceback" not in log.read_text()
    assert "SIGINT" not in log.read_text()


def test_a_closed_terminal_drains_it(model: Path, tmp_path: Path) -> None:
    port, log = str(free_port()), tmp_path / "log"
    flags = ("--port", port, "--model", str(model), "--threads", "1", "--slots", "1")
    with (
        in_terminal(*flags, "--log-format", "json", log=log) as (process, terminal),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
    ):
        wait_until(lambda: is_ready(port))
        process.send_signal(signal.SIGHUP)  # from somebody else: the terminal is still there
        wait_until(lambda: "settings read again" in log.read_text())
        (worker,) = workers_of(process.pid)
        with half_painted(http, worker) as lines:
            os.close(terminal)
            wait_until(lambda: '"draining"' in log.read_text())
            os.kill(worker, signal.SIGCONT)
            assert sum(line == "event: image_generation.completed" for line in lines) == 10
        assert process.wait(60) == 0
        assert "worker exited" not in log.read_text()


@contextlib.contextmanager
def in_terminal(*flags: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a server in a terminal of its own; yields it, and the descriptor whose closing hangs up."""
    terminal, inside = os.openpty()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, "-m", "server", "serve", *flags],
            cwd=ROOT,
            stdin=inside,
            stdout=output,
            stderr=output,
        )
    os.close(inside)
    try:
        yield process, terminal
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_hang_up_without_a_terminal_reads_the_settings_again(model: Path, tmp_path: Path) -> None:
    settings = tmp_path / "star.yaml"
    settings.write_text("log_level: error\n")
    flags = ("--config", str(settings), "--model", str(model), "--threads", "1")
    with (
        running_server(*flags, "--log-format", "json", log=tmp_path / "log") as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        assert server.written == ""
        settings.write_text("log_level: info\nimages_per_minute: 1\nprot: 5\n")
        os.killpg(server.process.pid, signal.SIGHUP)  # its worker too, which must not mind
        wait_until(lambda: "did you mean port?" in server.written)
        assert http.post("/generate", json={"prompt": GOLDFISH, "n": 2}).status_code == 200
        settings.write_text("log_level: info\nimages_per_minute: 1\nslots: 3\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: '"these settings need a restart"' in server.written)
        assert http.post("/generate", json={"prompt": GOLDFISH, "n": 2}).status_code == 400
        assert http.post("/generate", json={"prompt": GOLDFISH}).status_code == 200
        assert http.post("/generate", json={"prompt": GOLDFISH}).status_code == 429


def test_what_a_stop_gives_up_is_said_and_is_an_error(model: Path, tmp_path: Path) -> None:
    flags = ("--model", str(model), "--threads", "1", "--slots", "1", "--drain-timeout-s", "0.2")
    with (
        running_server(*flags, "--log-format", "json", log=tmp_path / "log") as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        (worker,) = workers_of(server.process.pid)
        with half_painted(http, worker) as lines:
            server.process.send_signal(signal.SIGTERM)
            assert '"code":"draining"' in "".join(lines).replace(" ", "")
        assert server.process.wait(60) == 0
        written = [json.loads(line) for line in server.written.splitlines()]
    (gave_up,) = [line for line in written if line["event"] == "drain timed out"]
    assert gave_up["requests"] == 1
    assert gave_up["outstanding"] >= 1
    given_up = [line for line in written if line.get("code") == "draining"]
    assert [(line["event"], line["outcome"]) for line in given_up] == [("request", "error")]


@contextlib.contextmanager
def half_painted(http: httpx.Client, worker: int) -> Iterator[Iterator[str]]:
    """The lines of a stream of ten images, whose worker is stopped before they are all painted."""
    body = {"prompt": GOLDFISH, "n": 10, "stream": True, "partial_images": 1}
    for _ in range(20):  # a worker may be quicker than its stop
        with http.stream("POST", "/generate", json=body) as answer:
            lines = answer.iter_lines()
            first = next(line for line in lines if line.startswith("event: "))
            os.kill(worker, signal.SIGSTOP)
            if outstanding(http) > 0:
                yield itertools.chain([first], lines)
                return
            os.kill(worker, signal.SIGCONT)
    pytest.fail("all images were painted before the worker was stopped")


def test_nohup_is_respected(model: Path, tmp_path: Path) -> None:
    port = str(free_port())
    log = tmp_path / "log"
    flags = ("--port", port, "--model", str(model), "--threads", "1")
    with started(*flags, log=log, shell='trap "" HUP; exec "$@"') as process:
        wait_until(lambda: is_ready(port))
        os.killpg(process.pid, signal.SIGHUP)
        wait_until(lambda: '"settings read again"' in log.read_text())
        assert is_ready(port)
        assert process.poll() is None


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_matter(model: Path, tmp_path: Path, closed: str) -> None:
    port = str(free_port())
    flags = ("--port", port, "--model", str(model), "--threads", "1")
    with started(*flags, log=tmp_path / "log", shell=f'exec "$@" {closed}') as process:
        wait_until(lambda: is_ready(port))
        body = {"prompt": GOLDFISH}
        answer = httpx.post(f"http://127.0.0.1:{port}/generate", json=body, timeout=60)
        assert answer.status_code == 200
        for descriptor in (0, 1, 2):
            assert "socket" not in os.readlink(f"/proc/{process.pid}/fd/{descriptor}")
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="makes a pipe small")
def test_a_log_that_nobody_reads_stops_nobody(model: Path) -> None:
    port = str(free_port())
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 8192)
    flags = ("--port", port, "--model", str(model), "--threads", "1", "--log-format", "json")
    with (
        os.fdopen(read, "rb") as log,
        started(*flags, log=Path(f"/dev/fd/{write}")) as process,
    ):
        os.close(write)
        wait_until(lambda: is_ready(port))
        for number in range(60):
            path = f"http://127.0.0.1:{port}/{number}{'x' * 150}"
            assert httpx.get(path, timeout=60).status_code == 404
        os.set_blocking(log.fileno(), False)
        log.read()
        assert httpx.get(f"http://127.0.0.1:{port}/nothing", timeout=60).status_code == 404
        wait_until(lambda: b"log lines were dropped" in (log.read() or b""))
        process.terminate()
        assert process.wait(60) == 0


def test_a_hang_up_leaves_the_decoders_alone(model: Path, tmp_path: Path) -> None:
    """The signals of a process group end them neither while they start nor while they decode."""
    port = str(free_port())
    flags = ("--port", port, "--model", str(model), "--threads", "1")
    with started(*flags, log=tmp_path / "log", shell='trap "" HUP; exec "$@"') as process:
        wait_until(lambda: is_ready(port))
        (worker,) = workers_of(process.pid)
        asking = ThreadPoolExecutor(1).submit(ask_for_edit, port)
        wait_until(lambda: len(workers_of(process.pid)) == 2)
        decoder = next(pid for pid in workers_of(process.pid) if pid != worker)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(decoder, number)
        assert asking.result() == 200
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(decoder, number)
        assert ask_for_edit(port) == 200
        assert decoder in workers_of(process.pid)


def ask_for_edit(port: str) -> int:
    body = {"prompt": GOLDFISH, "image": base64.b64encode(file_of(photo(28))).decode()}
    return httpx.post(f"http://127.0.0.1:{port}/generate", json=body, timeout=60).status_code


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to kill it")
def test_a_stopped_child_does_not_outlive_a_server_that_is_killed(
    model: Path, tmp_path: Path
) -> None:
    port = str(free_port())
    flags = ("--port", port, "--model", str(model), "--threads", "1")
    with started(*flags, log=tmp_path / "log") as process:
        wait_until(lambda: is_ready(port))
        assert ask_for_edit(port) == 200
        children = workers_of(process.pid)
        assert len(children) == 2, "a worker and a decoder"
        for child in children:
            os.kill(child, signal.SIGSTOP)
        process.kill()
        wait_until(lambda: not any(alive(child) for child in children))


def is_ready(port: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def outstanding(http: httpx.Client) -> float:
    """Requests that are waiting or being painted."""
    names = ("star_requests_running", "star_requests_waiting")
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(names))
