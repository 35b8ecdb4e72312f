"""One request over a connection of its own, so that hundreds of clients cost the load generator little."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import h11

_CHUNK = 1 << 16


async def post(
    url: str, body: Mapping[str, object], accept: str, receive: Callable[[bytes], None]
) -> int:
    """Send JSON, and return the status of the answer once all of it has come.

    The connection is closed in the end, and at once when the caller is cancelled: so the server sees a client leave.

    Args:
        url: of plain HTTP, with a port.
        body: sent as JSON.
        accept: media type of the answer.
        receive: called with each part of the answer's content.

    Raises:
        OSError: there is no connection.
        h11.RemoteProtocolError: it has ended before the answer has, or is no HTTP.
    """
    where = urlsplit(url)
    content = json.dumps(body).encode()
    headers = [
        ("host", where.netloc),
        ("accept", accept),
        ("content-type", "application/json"),
        ("content-length", str(len(content))),
        ("connection", "close"),
    ]
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        connection = h11.Connection(h11.CLIENT)
        request = h11.Request(method="POST", target=where.path or "/", headers=headers)
        for part in (request, h11.Data(data=content), h11.EndOfMessage()):
            writer.write(connection.send(part) or b"")
        status = 0
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(_CHUNK))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                receive(bytes(event.data))
            elif isinstance(event, h11.ConnectionClosed):
                raise h11.RemoteProtocolError("the connection has ended before the answer")
        return status
    finally:
        writer.close()
