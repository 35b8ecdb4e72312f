"""The real server when file descriptors run out."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.live_server import LiveServer, running_server
from tests.server.processes import needs_proc, wait_until
from tests.star_model.tiny import GOLDFISH, write_quick_model

pytestmark = needs_proc


FEW = 256


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """What is started meanwhile may have few descriptors, unless it raises its own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    model = write_quick_model(tmp_path / "model")
    with running_server(
        *("--model", str(model), "--threads", "1", "--log-format", "json"),
        log=tmp_path / "log",
        ready_within=300,
    ) as running:
        yield running


def descriptors(server: LiveServer) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


@pytest.mark.usefixtures("few_descriptors")
def test_the_soft_limit_is_raised_at_the_start(server: LiveServer) -> None:
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    assert soft == (65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)) > FEW


def test_silent_sockets_take_the_last_descriptor_and_honest_requests_are_served(
    server: LiveServer,
) -> None:
    limit = descriptors(server) + 30
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    with contextlib.ExitStack() as silent:
        for _ in range(200):
            silent.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
        wait_until(lambda: "accept_failed" in server.written)
        for _ in range(3):
            answer = httpx.post(f"{server.url}/generate", json={"prompt": GOLDFISH}, timeout=60)
            assert answer.status_code == 200
        assert server.process.poll() is None
    wait_until(lambda: descriptors(server) < limit - 20)
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert server.written.count("accept_failed") <= 20, "not a line for each attempt"
    assert "Traceback" not in server.written
