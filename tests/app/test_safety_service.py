"""A safety hook behind an address: what its service is sent, and what each of its answers means."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.app.test_safety import count
from tests.server.fakes import paint
from tests.server.pictures import opened
from tests.server.service import serve_fake

pytestmark = pytest.mark.anyio


class Moderation(ThreadingHTTPServer):
    """A service that keeps what it is sent, and answers as told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.connections: set[Any] = set()
        self.answer: tuple[int, str] = (200, '{"allowed": true}')

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/check"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Moderation

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.received.append((body, dict(self.headers)))
        self.server.connections.add(self.client_address)
        status, text = self.server.answer
        self.send_response(status)
        self.send_header("location", self.server.address)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def moderation() -> Iterator[Moderation]:
    server = Moderation()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_service_is_sent_json_over_one_connection(moderation: Moderation) -> None:
    async with serve_fake(safety_hook=moderation.address, safety_token="a-token") as service:
        assert (await service.generate(seed=4, prompt="an owl")).status_code == 200
    (first, headers), (second, _) = moderation.received
    assert headers["authorization"] == "Bearer a-token"
    assert first["stage"] == "input"
    assert (first["prompt"], first["negative_prompt"], first["image"]) == ("an owl", "", None)
    assert second["stage"] == "output"
    assert opened(second["image"]).tobytes() == paint(4, 10).data
    assert len(moderation.connections) == 1


async def test_a_service_may_refuse(moderation: Moderation) -> None:
    moderation.answer = (200, '{"allowed": false, "categories": ["violence"], "score": 0.9}')
    async with serve_fake(safety_hook=moderation.address) as service:
        answer = await service.generate()
    assert answer.json()["error"]["moderation_details"]["categories"] == ["violence"]


@pytest.mark.parametrize(
    "wrong",
    [
        (500, '{"allowed": true}'),
        (302, '{"allowed": true}'),
        (200, "yes"),
        (200, '{"allowed": "yes"}'),
        (200, "{}"),
        (200, json.dumps({"allowed": True, "padding": "x" * (64 << 10)})),
    ],
)
async def test_any_other_answer_of_a_service_is_a_failure(
    moderation: Moderation, wrong: tuple[int, str]
) -> None:
    moderation.answer = wrong
    async with serve_fake(safety_hook=moderation.address) as service:
        answer = await service.generate()
        assert answer.json()["error"]["code"] == "safety_check_failed"
        assert count(service, "input", "error") == 1


async def test_a_service_that_is_gone_is_a_failure() -> None:
    server = Moderation()
    server.server_close()
    async with serve_fake(safety_hook=server.address) as service:
        assert (await service.generate()).status_code == 503
