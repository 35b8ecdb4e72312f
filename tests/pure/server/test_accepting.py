"""Places for connections, and accepting them when file descriptors run out."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from typing import Any

import pytest

from server.commands.serve import listen
from server.http import acceptor
from server.http.acceptor import Acceptor, connections_for, raise_descriptor_limit
from server.http.connections import Connections
from server.http.refusals import Refusals
from server.metrics import Metrics

pytestmark = pytest.mark.anyio


class Held:
    """A connection that records that it was closed."""

    def __init__(self) -> None:
        self.aborted = 0

    def abort(self) -> None:
        self.aborted += 1


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def refused(metrics: Metrics, reason: str) -> float | None:
    return metrics.registry.get_sample_value("star_connections_refused_total", {"reason": reason})


def test_places_are_given_back_once(metrics: Metrics) -> None:
    connections = Connections(2, Refusals(metrics))
    first, second, third = Held(), Held(), Held()
    for connection in (first, second):
        assert connections.enter()
        connections.waiting(connection)
    connections.heard(first)
    assert connections.enter()
    connections.waiting(third)
    assert (first.aborted, second.aborted) == (0, 1)
    connections.leave(second)  # its end, after its place has been given to another
    assert len(connections) == 2
    connections.leave(first)
    connections.leave(third)
    assert len(connections) == 0


def test_who_is_served_has_nothing_to_fear(metrics: Metrics) -> None:
    connections = Connections(1, Refusals(metrics))
    assert connections.enter()
    busy = Held()
    connections.waiting(busy)
    connections.busy(busy)
    connections.heard(busy)  # bytes of its next request
    assert not connections.enter()
    assert busy.aborted == 0
    connections.waiting(busy)
    assert connections.enter()
    assert busy.aborted == 1


def test_a_flood_is_counted_in_full_and_logged_in_part(
    metrics: Metrics, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    refusals = Refusals(metrics, lambda: now)
    for _ in range(100):
        refusals.note("malformed", client="192.0.2.1")
    refusals.note("header_timeout")
    assert refused(metrics, "malformed") == 100
    lines = capsys.readouterr().out.splitlines()
    assert sum("malformed" in line for line in lines) == 5
    assert sum("header_timeout" in line for line in lines) == 1
    now = 1.0
    refusals.note("malformed")
    assert "more_unlogged=95" in capsys.readouterr().out


@pytest.mark.parametrize(("descriptors", "expected"), [(64, 48), (1024, 768), (65536, 65280)])
def test_descriptors_are_kept_for_files_and_pipes(descriptors: int, expected: int) -> None:
    assert connections_for(descriptors) == expected


def test_the_limit_on_descriptors_is_raised_as_far_as_it_may_be() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
        raised = raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == raised
        assert raised == (65536 if before[1] < 0 else min(before[1], 65536))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class ShortOfDescriptors:
    """An event loop on which ``accept`` fails a few times, as it does when descriptors have run out."""

    def __init__(self, failures: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.failures = failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def sock_accept(self, listener: socket.socket) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await self._loop.sock_accept(listener)


@pytest.mark.parametrize("silent", [0, 1, 40])
async def test_accepting_goes_on_when_descriptors_run_out(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch, silent: int
) -> None:
    monkeypatch.setattr(acceptor, "_PAUSE_S", 0.001)
    loop = ShortOfDescriptors(failures=2)
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    refusals = Refusals(metrics)
    connections = Connections(1000, refusals)
    held = [Held() for _ in range(silent)]
    for connection in held:
        connections.enter()
        connections.waiting(connection)
    (listener,) = listen("127.0.0.1", 0)
    accepting = Acceptor(listener, asyncio.Protocol, connections, refusals)
    monkeypatch.undo()
    try:
        async with asyncio.timeout(20):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            while len(connections) != silent - sum(c.aborted for c in held) + 1:
                await asyncio.sleep(0.005)
        writer.close()
    finally:
        accepting.close()
        await accepting.wait_closed()
        listener.close()
    assert refused(metrics, "accept_failed") == 2
    assert sum(connection.aborted for connection in held) == min(silent, 32)


async def test_an_acceptor_that_is_closed_accepts_nothing_more(metrics: Metrics) -> None:
    refusals = Refusals(metrics)
    connections = Connections(10, refusals)
    (listener,) = listen("127.0.0.1", 0)
    accepting = Acceptor(listener, asyncio.Protocol, connections, refusals)
    accepting.close()
    await accepting.wait_closed()
    _, writer = await asyncio.open_connection(*listener.getsockname())  # the system's backlog
    await asyncio.sleep(0.05)
    assert len(connections) == 0
    writer.close()
    listener.close()
