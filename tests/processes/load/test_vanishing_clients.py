"""A thousand clients that ask for images and hang up."""

from __future__ import annotations

import json
import socket
import struct
from contextlib import ExitStack

from tests.live_server import LiveServer
from tests.processes.load.metrics_page import scrape, settled
from tests.server.processes import needs_proc, resident_bytes, stopped, wait_until, workers_of

pytestmark = needs_proc

WAVE = 250
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def ask(server: LiveServer, number: int) -> socket.socket:
    """A client that has sent its request; every other one will leave without saying goodbye."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    if number % 2:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    asked = {"prompt": str(number % 7), "n": 1 + number % 3}
    streamed = {"stream": True, "partial_images": 3} if number % 3 else {}
    body = json.dumps(asked | streamed).encode()
    head = (
        "POST /generate HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}"
    )
    client.sendall(head.encode() + b"\r\n\r\n" + body)
    return client


def vanish(server: LiveServer, numbers: range) -> float:
    """One wave; returns how many scales were computed after it had left."""
    workers = workers_of(server.process.pid)
    answered = scrape(server).total("requests_total", endpoint="/generate")
    with (
        ExitStack() as clients
    ):  # a wave that gets stuck leaves no sockets for other tests to stumble over
        for number in numbers:
            clients.enter_context(ask(server, number))
        wait_until(lambda: scrape(server).total("requests_running") > 0)
        with stopped(workers):  # in the middle of a scale, or between two
            before = settled(server).steps
            clients.close()
            # The server knows that all have left while the workers are still where they were.
            everybody = answered + len(numbers)
            wait_until(
                lambda: scrape(server).total("requests_total", endpoint="/generate") == everybody
            )
    wait_until(lambda: scrape(server).at_rest)
    return settled(server).steps - before


def test_they_leave_nothing_behind(slow_workers: LiveServer) -> None:
    server = slow_workers
    wait_until(lambda: scrape(server).total("engine_up") == 2)
    processes = [server.process.pid, *workers_of(server.process.pid)]
    waves = [range(start, start + WAVE) for start in range(0, 6 * WAVE, WAVE)]
    for wave in waves[:2]:  # until what is allocated once has been
        vanish(server, wave)
    before = [resident_bytes(pid) for pid in processes]
    start = scrape(server)
    for wave in waves[2:]:
        assert vanish(server, wave) <= len(processes) - 1, (
            "a further scale was computed for those who had left"
        )
    growth = [resident_bytes(pid) - bytes_ for pid, bytes_ in zip(processes, before, strict=True)]
    assert max(growth) < 20 << 20, growth

    end = scrape(server)
    outcomes = {
        outcome: end.total("requests_total", outcome=outcome)
        - start.total("requests_total", outcome=outcome)
        for outcome in ("cancelled", "rejected", "error")
    }
    assert outcomes["cancelled"] >= 4 * 8, "hardly anybody had got past the door"
    assert outcomes["error"] == 0
    assert "Traceback" not in server.written
