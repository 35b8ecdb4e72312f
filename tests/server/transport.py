"""The app around a fake engine on a real socket, and clients that speak HTTP byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from uvicorn.server import ServerState

from server.commands.serve import listen
from server.http.transport import accept_connections, uvicorn_config
from server.settings import Settings
from tests.server.fakes import FakeEngine
from tests.server.service import Service, serve_fake

GENERATE = b"POST /generate HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n"
DEADLINE_S = 20


@dataclass
class Answer:
    """One answer, as it came over the connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of the error envelope."""
        return str(json.loads(self.body)["error"]["code"])


class Client:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, head: bool = False) -> Answer:
        """Read one answer that has a content-length, or that ends with the connection."""
        async with asyncio.timeout(DEADLINE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = [line.partition(": ") for line in lines[1:] if line]
            headers = {name.lower(): value for name, _, value in pairs}
            length = headers.get("content-length")
            body = b""
            if not head:
                body = await (
                    self.reader.read() if length is None else self.reader.readexactly(int(length))
                )
        return Answer(int(lines[0].split()[1]), headers, body)

    async def ask(self, data: bytes) -> Answer:
        await self.send(data)
        return await self.answer()

    async def closed(self) -> bytes:
        """What still comes until the server closes the connection."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def vanish(self) -> None:
        self.writer.transport.abort()


@dataclass
class Transport:
    """A running server on a port of its own."""

    service: Service
    port: int
    clients: list[Client]
    state: ServerState

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def ask(self, data: bytes) -> Answer:
        """Send a request over a connection of its own."""
        return await (await self.connect()).ask(data)

    def refused(self, reason: str) -> float:
        """How many connections were refused so far for a reason."""
        return self.count("star_connections_refused_total", reason=reason)

    def count(self, name: str, **labels: str) -> float:
        value = self.service.models.metrics.registry.get_sample_value(name, labels)
        assert value is not None, name
        return value


def body_of(**fields: Any) -> bytes:
    """The end of a request for an image: its length, and its body."""
    body = json.dumps({"prompt": "a red apple", **fields}).encode()
    return b"content-length: %d\r\n\r\n%s" % (len(body), body)


@asynccontextmanager
async def serve_sockets(
    make_engine: Callable[[], FakeEngine] = FakeEngine, **settings: Any
) -> AsyncIterator[Transport]:
    """Serve a fake engine on a free port of 127.0.0.1."""
    (listener,) = listen("127.0.0.1", 0)
    async with serve_fake(make_engine=make_engine, **settings) as service:
        config = uvicorn_config(service.app)
        config.load()
        state = ServerState()
        (acceptor,) = accept_connections(
            [listener],
            config,
            state,
            {},
            settings=Settings(**settings),
            metrics=service.models.metrics,
        )
        transport = Transport(service, listener.getsockname()[1], [], state)
        try:
            yield transport
        finally:
            acceptor.close()
            await acceptor.wait_closed()
            for client in transport.clients:
                client.vanish()
            for engine in service.engines:
                engine.gate.set()
            async with asyncio.timeout(DEADLINE_S):
                while state.connections or state.tasks:
                    await asyncio.sleep(0.01)
            listener.close()
