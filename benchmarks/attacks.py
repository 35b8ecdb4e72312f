"""Attacks on a server of one's own, each kept up until it is told to stop.

They are what single clients can do without a key or a trick: much work for few bytes, connections that are held, and
clients that leave. :mod:`benchmarks.bench_attacks` times honest requests beside each, and :mod:`benchmarks.soak` mixes
them with honest ones. ``python -m benchmarks.attacks PORT NAME ...`` attacks a server on loopback until it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

HOST = "127.0.0.1"
_HEAD = b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
_PACE_S = 0.05
"""Pause of an attacker between two attempts: it is to harm the server, not to take the processor from it."""
_UNREAD_S = 20.0
"""For so long a client does not read an answer."""

Attack = Callable[[int], Awaitable[None]]
"""Attacks the server on a port until it is cancelled."""


async def _send(port: int, data: bytes, *, read: bool) -> None:
    """Send bytes over a connection of their own, and read the answer or leave at once."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(data)
                await writer.drain()
                if read:
                    await reader.read(65536)
            finally:
                writer.transport.abort()


async def _repeat(port: int, data: bytes, *, read: bool = True, clients: int = 4) -> None:
    async def one() -> None:
        while True:
            await _send(port, data, read=read)
            await asyncio.sleep(_PACE_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one())


async def _hold(
    port: int, data: bytes, *, clients: int, limit: int | None = None, piece: bytes = b""
) -> None:
    """Hold so many connections, each of which has sent ``data``; one that is closed is opened again.

    ``limit`` is the size of the buffer for what the server sends, for clients that do not read it, and begin one after
    the other; ``piece`` is sent again and again.
    """

    async def one(number: int) -> None:
        if limit is not None:
            await asyncio.sleep(number * _UNREAD_S / clients)
        while True:
            with contextlib.suppress(OSError):
                options = {} if limit is None else {"limit": limit}
                reader, writer = await asyncio.open_connection(HOST, port, **options)
                try:
                    writer.write(data)
                    await writer.drain()
                    if limit is not None:
                        await asyncio.sleep(_UNREAD_S)
                    elif piece:
                        await _trickle(reader, writer, piece)
                    else:
                        await reader.read()
                finally:
                    writer.transport.abort()
            await asyncio.sleep(_PACE_S)

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(one(number))


async def _trickle(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece: bytes
) -> None:
    """Send a piece after the other until the server answers or closes the connection."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PACE_S):
                await reader.read(1)
                return
        writer.write(piece)
        await writer.drain()


def _post(body: bytes, head: bytes = _HEAD) -> bytes:
    return b"%scontent-length: %d\r\nconnection: close\r\n\r\n%s" % (head, len(body), body)


def endless_scans(side: int = 4096, scans: int = 3000) -> bytes:
    """A progressive JPEG with thousands of empty refinement scans: 27 bytes each, and a walk over all its pixels."""
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
    table = b"\xff\xc4\x00\x14\x10\x01" + bytes(15) + b"\x00"
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x21"
    return file.getvalue()[:-2] + (table + scan) * scans + b"\xff\xd9"


def large_picture(side: int = 2048) -> bytes:
    """A PNG of noise that is worth decoding: as many pixels as are allowed would only be slower."""
    noise = random.Random(1).randbytes(side * side)
    file = io.BytesIO()
    Image.frombytes("L", (side, side), noise).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _edit(file: bytes) -> bytes:
    boundary = b"----------------------------1234"
    form = (
        b'--%s\r\ncontent-disposition: form-data; name="prompt"\r\n\r\na\r\n'
        b'--%s\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n%s\r\n--%s--\r\n'
    ) % (boundary, boundary, file, boundary)
    head = (
        b"POST /v1/images/edits HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: multipart/form-data; boundary=%s\r\n"
    ) % boundary
    return _post(form, head)


async def scans(port: int) -> None:
    """Edits of a JPEG of endless scans, whose senders leave at once."""
    await _repeat(port, _edit(endless_scans()), read=False)


async def decoding(port: int) -> None:
    """Edits of a large picture, whose senders leave at once."""
    await _repeat(port, _edit(large_picture()), read=False, clients=2)


async def fields(port: int) -> None:
    """Bodies of 40,000 unknown fields."""
    body = json.dumps({f"unknown_{number}": number for number in range(40_000)}).encode()
    await _repeat(port, _post(body))


async def nesting(port: int) -> None:
    """Bodies that are nested half a million deep, and numbers of as many digits."""
    deep = b'{"prompt": ' + b"[" * 500_000 + b"]" * 500_000 + b"}"
    long = b'{"prompt": "a", "seed": ' + b"9" * 1_000_000 + b"}"
    async with asyncio.TaskGroup() as group:
        group.create_task(_repeat(port, _post(deep), clients=2))
        group.create_task(_repeat(port, _post(long), clients=2))


async def silence(port: int) -> None:
    """1,100 connections that send nothing, half a request line, half a header or half a body."""
    beginnings = (b"", b"GET /li", _HEAD, _HEAD + b'content-length: 99\r\n\r\n{"prompt')
    async with asyncio.TaskGroup() as group:
        for beginning in beginnings:
            group.create_task(_hold(port, beginning, clients=275))


async def headers(port: int) -> None:
    """Headers of 8 MB, of many lines and of one."""
    async with asyncio.TaskGroup() as group:
        for rest in (b"x: y\r\n" * 1_400_000, b"x: " + b"y" * 8_000_000):
            group.create_task(_repeat(port, _HEAD + rest, clients=2))


async def trickles(port: int) -> None:
    """Headers of nearly 64 KB, bodies and chunks that come by the byte, each over 20 connections."""
    header = _HEAD + b"x: %s\r\n" % (b"y" * 250) * 240 + b"x: "
    body = _HEAD + b"content-length: 99999\r\n\r\n"
    chunks = _HEAD + b"transfer-encoding: chunked\r\n\r\n"
    async with asyncio.TaskGroup() as group:
        for beginning, piece in ((header, b"y"), (body, b" "), (chunks, b"1\r\n \r\n")):
            group.create_task(_hold(port, beginning, clients=20, piece=piece))


async def chunks(port: int) -> None:
    """Bodies of 200,000 chunks of one byte."""
    await _repeat(port, _HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 200_000)


async def refused_bodies(port: int) -> None:
    """Bodies of 60 MB for a path that does not exist, which is answered at once."""
    head = _HEAD.replace(b"/generate", b"/no/such/path")
    await _repeat(port, _post(bytes(60_000_000), head))


async def escapes(port: int) -> None:
    """Upgrades to WebSocket, of paths that do not exist and are full of escapes for a terminal."""
    path = b"/" + b"%1b%5d0;x%07" * 2_000
    head = (
        b"GET %s HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    )
    await _repeat(port, head % path)


async def held_bodies(port: int) -> None:
    """Forty bodies of 15 MB whose last byte never comes."""
    await _hold(port, _edit(bytes(15_000_000))[:-1], clients=40)


async def pipelining(port: int) -> None:
    """Clients that ask for ten images twice over one connection, and vanish."""
    body = json.dumps({"prompt": "a red apple", "n": 10}).encode()
    once = b"%scontent-length: %d\r\n\r\n%s" % (_HEAD, len(body), body)
    await _repeat(port, 2 * once, read=False)


async def slow_readers(port: int) -> None:
    """Clients that ask for a stream of previews and do not read it; not all at once, which would be a full queue."""
    body = {"prompt": "a red apple", "stream": True, "partial_images": 3}
    await _hold(port, _post(json.dumps(body).encode()), clients=4, limit=1024)


ATTACKS: dict[str, Attack] = {
    "scans": scans,
    "decoding": decoding,
    "fields": fields,
    "nesting": nesting,
    "silence": silence,
    "headers": headers,
    "trickles": trickles,
    "chunks": chunks,
    "held bodies": held_bodies,
    "refused bodies": refused_bodies,
    "escapes": escapes,
    "pipelining": pipelining,
    "slow readers": slow_readers,
}
"""Name -> attack."""


@contextlib.contextmanager
def attacked(names: Sequence[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Attack a server in these ways at once while this is entered, from a process of the lowest priority, its value.

    Raises:
        RuntimeError: the attackers have ended before.
    """
    command = [sys.executable, "-m", "benchmarks.attacks", str(port), *names]
    process = subprocess.Popen(command, cwd=Path(__file__).parent.parent)
    try:
        yield process
        if process.poll() is not None:
            raise RuntimeError(f"the attackers ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()


async def _attack(port: int, names: Sequence[str]) -> None:
    """Attack until the parent of this process is gone."""
    parent = os.getppid()
    tasks = {asyncio.ensure_future(ATTACKS[name](port)) for name in names}
    while os.getppid() == parent:
        done, _ = await asyncio.wait(tasks, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # an attack ends only by an error


def main() -> None:
    """Attack as the command line says."""
    port, *names = sys.argv[1:]
    os.nice(19)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_attack(int(port), names))


if __name__ == "__main__":
    main()
