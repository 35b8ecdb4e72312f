"""A client that asks for a stream and does not read it."""

from __future__ import annotations

import json
import socket

import httpx

from tests.live_server import LiveServer
from tests.processes.load.metrics_page import scrape
from tests.server.processes import wait_until
from tests.star_model.tiny import GOLDFISH


def test_it_loses_previews_but_no_image_and_holds_up_nobody(slow_workers: LiveServer) -> None:
    server = slow_workers
    wait_until(lambda: scrape(server).total("engine_up") == 2)
    painted = scrape(server).total("images_total")
    body = json.dumps(
        {"prompt": GOLDFISH, "n": 10, "seed": 1, "stream": True, "partial_images": 3}
    ).encode()
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(60)
        reader.connect(("127.0.0.1", server.port))
        head = f"POST /generate HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
        reader.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        wait_until(lambda: scrape(server).total("images_total") == painted + 10)
        other = httpx.post(
            f"{server.url}/generate", json={"prompt": GOLDFISH, "seed": 1}, timeout=60
        )
        assert other.status_code == 200
        received = b"".join(iter(lambda: reader.recv(1 << 20), b""))
    assert received.count(b"event: image_generation.completed") == 10
    assert received.count(b"event: image_generation.partial_image") < 10 * 2, (
        "all this was kept for it"
    )
