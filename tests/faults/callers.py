"""Clients of a server under test, honest and not, and what they see in a few words."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx

from tests.server.hostile_images import endless_scans

_PATIENCE_S = 300.0
_NUMBERS = itertools.count()
LARGE_FILE = bytes(1_500_000)
"""More than is kept in memory while a form is read."""


def outcome(answer: httpx.Response) -> str:
    """The status of an answer, and the code of its error."""
    if answer.status_code < 400:
        return str(answer.status_code)
    return f"{answer.status_code} {answer.json()['error']['code']}"


def ask(url: str, **fields: Any) -> str:
    """Ask for an image with a prompt that has not been encoded yet; return what comes of it."""
    body = {"prompt": f"an apple, number {next(_NUMBERS)}", "timeout_s": _PATIENCE_S, **fields}
    return outcome(httpx.post(f"{url}/generate", json=body, timeout=_PATIENCE_S))


def ask_for_stream(url: str, begun: threading.Event) -> str:
    """Ask for a stream of previews; set ``begun`` at the first. Return the status, and how the stream ends."""
    body = {"prompt": f"an apple, number {next(_NUMBERS)}", "stream": True, "partial_images": 3}
    last = "nothing"
    with httpx.stream("POST", f"{url}/generate", json=body, timeout=_PATIENCE_S) as answer:
        if answer.status_code != 200:
            answer.read()
            return outcome(answer)
        for line in answer.iter_lines():
            if line.startswith("data: "):
                begun.set()
                event = json.loads(line[6:])
                last = event["error"]["code"] if "error" in event else event["type"]
    return f"200, event {last}"


def upload(url: str) -> str:
    """Send a large file that is no image as an edit."""
    files = {"image": ("a.png", LARGE_FILE)}
    return outcome(
        httpx.post(f"{url}/v1/images/edits", files=files, data={"prompt": "a"}, timeout=_PATIENCE_S)
    )


@contextlib.contextmanager
def silent_clients(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections, of which every other one sends half a header, and the rest nothing."""
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            if number % 2:
                with contextlib.suppress(OSError):
                    client.sendall(b"POST /generate HTTP/1.1\r\nho")
            clients.append(client)
        yield clients


def answers_to(clients: list[socket.socket]) -> str:
    """What connections that ask for nothing are sent until they are closed, each kind once."""
    seen = set()
    for client in clients:
        data = _rest(client)
        seen.add(_first_words(data) if data else "closed")
    return ", ".join(sorted(seen, reverse=True))


def trickle(port: int) -> str:
    """Send a body by the byte; return the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as client:
        client.sendall(
            b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 5000\r\n\r\n"
        )
        client.settimeout(0.1)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                data = client.recv(65536)
                client.settimeout(60)
                return _first_words(data + _rest(client)) if data else "closed"
            except TimeoutError:
                client.sendall(b" ")
    return "no answer"


def _rest(client: socket.socket) -> bytes:
    """What still comes until the connection is closed."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            data += part
    return data


def _first_words(answer: bytes) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    return f"{head.split()[1].decode()} {json.loads(body)['error']['code']}"


def send_hostile_bodies(url: str) -> str:
    """Send bodies that are made to cost much; return the answer if all are the same, else each."""
    fields = {f"unknown_{number}": number for number in range(40_000)}
    as_json = {"content-type": "application/json"}
    bodies = [
        json.dumps(fields).encode(),
        b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"prompt": "' + b"\\u202e" * 80_000 + b'", "n": 0}',
        b'{"prompt": "a", "seed": ' + b"9" * 400_000 + b"}",
        b"\xff\xfe{",
    ]
    seen = [
        outcome(httpx.post(f"{url}/generate", content=body, headers=as_json, timeout=_PATIENCE_S))
        for body in bodies
    ]
    files = {"image": ("a.jpg", endless_scans(1024, 2000))}
    seen.append(
        outcome(
            httpx.post(f"{url}/v1/images/edits", files=files, data={"prompt": "a"}, timeout=120)
        )
    )
    return ", ".join(sorted(set(seen)))
