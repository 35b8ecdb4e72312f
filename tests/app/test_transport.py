"""HTTP as it is spoken by clients that are slow, silent, old, broken or hostile, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import pytest

from tests.server.fakes import held_engine
from tests.server.service import until
from tests.server.transport import GENERATE, LIVEZ, body_of, serve_sockets

pytestmark = pytest.mark.anyio

CHUNKED = b"transfer-encoding: chunked\r\n"


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """On both event loops: uvicorn takes uvloop where it is installed."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


# ---- slow and silent ---------------------------------------------------------------------------------------
async def test_a_header_that_is_not_whole_in_time_is_answered_408() -> None:
    async with serve_sockets(header_timeout_s=0.3) as server:
        client = await server.connect()
        await client.send(b"GET /livez HTTP/1.1\r\nho")
        answer = await client.answer()
        assert (answer.status, answer.code) == (408, "request_timeout")
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-request-id"]
        assert await client.closed() == b""
        assert server.refused("header_timeout") == 1


async def test_the_time_for_a_header_is_not_prolonged_by_what_trickles_in() -> None:
    async with serve_sockets(header_timeout_s=0.5) as server:
        client = await server.connect()
        await client.send(b"GET /livez HTTP/1.1\r\n")
        answer = asyncio.ensure_future(client.answer())
        while not answer.done():
            await client.send(b"x: y\r\n")
            await asyncio.sleep(0.05)
        assert (await answer).status == 408


@pytest.mark.parametrize("nothing", [b"", b"\r\n\r\n"])
async def test_a_silent_connection_is_closed_without_an_answer(nothing: bytes) -> None:
    async with serve_sockets(header_timeout_s=0.3) as server:
        client = await server.connect()
        await client.send(nothing)
        assert await client.closed() == b""
        assert server.refused("header_timeout") == 1


async def test_the_second_header_of_a_connection_has_its_own_deadline() -> None:
    async with serve_sockets(header_timeout_s=0.3) as server:
        client = await server.connect()
        assert (await client.ask(LIVEZ)).status == 200
        await asyncio.sleep(0.5)  # idle, which keep_alive_s bounds, not header_timeout_s
        assert (await client.ask(LIVEZ)).status == 200
        assert (await client.ask(LIVEZ[:20])).status == 408


async def test_an_idle_connection_is_closed_after_keep_alive_s() -> None:
    async with serve_sockets(keep_alive_s=0.3) as server:
        client = await server.connect()
        assert (await client.ask(LIVEZ)).status == 200
        assert await client.closed() == b""


async def test_a_body_that_stops_is_answered_408() -> None:
    async with serve_sockets(body_timeout_s=0.3) as server:
        client = await server.connect()
        await client.send(GENERATE + b"content-length: 400\r\n\r\n{")
        answer = await client.answer()
        assert (answer.status, answer.code) == (408, "request_timeout")
        assert await client.closed() == b""
        counted = {"endpoint": "/generate", "outcome": "invalid"}
        assert server.count("star_requests_total", **counted) == 1


async def test_a_body_that_trickles_is_answered_408_and_a_slow_one_that_moves_is_read() -> None:
    async with serve_sockets(body_timeout_s=0.5) as server:
        client = await server.connect()
        await client.send(GENERATE + b"content-length: 4000\r\n\r\n")
        answer = asyncio.ensure_future(client.answer())
        while not answer.done():
            await client.send(b" ")
            await asyncio.sleep(0.05)
        assert (await answer).status == 408

        honest = await server.connect()
        body = json.dumps({"prompt": "a red apple"}).encode().rjust(8000)
        await honest.send(GENERATE + b"content-length: 8000\r\n\r\n")
        for start in range(0, 8000, 500):  # for longer than body_timeout_s in all
            await honest.send(body[start : start + 500])
            await asyncio.sleep(0.06)
        assert (await honest.answer()).status == 200


# ---- too many, too large -----------------------------------------------------------------------------------
async def test_silent_connections_keep_nobody_out() -> None:
    async with serve_sockets(max_connections=10) as server:
        silent = [await server.connect() for _ in range(40)]
        assert (await server.ask(LIVEZ)).status == 200
        assert server.refused("evicted") == 31
        await until(lambda: server.count("star_connections") <= 10)
        assert sum(client.reader.at_eof() for client in silent) <= 31


@pytest.mark.parametrize(
    "held",
    [b"GET /li", b"GET /livez HTTP/1.1\r\nx: y\r\n", GENERATE + b"content-length: 99\r\n\r\n{"],
)
async def test_connections_that_stop_in_the_middle_keep_nobody_out(held: bytes) -> None:
    async with serve_sockets(max_connections=5) as server:
        for _ in range(20):
            await (await server.connect()).send(held)
        assert (await server.ask(LIVEZ)).status == 200
        assert server.refused("connection_limit") == 0


async def test_the_longest_silent_connection_goes_first() -> None:
    async with serve_sockets(max_connections=3) as server:
        first, second, third = [await server.connect() for _ in range(3)]
        for client in (first, third):
            assert (await client.ask(LIVEZ)).status == 200
        assert (await server.ask(LIVEZ)).status == 200
        assert await second.closed() == b""
        assert (await first.ask(LIVEZ)).status == (await third.ask(LIVEZ)).status == 200


async def test_clients_that_do_not_read_their_answers_keep_nobody_out() -> None:
    async with serve_sockets(max_connections=4) as server:
        slow = [await server.connect() for _ in range(4)]
        for client in slow:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(b"GET /docs/parts/swagger-ui-bundle.js HTTP/1.1\r\nhost: a\r\n\r\n")

        async def served() -> bool:
            try:
                return (await server.ask(LIVEZ)).status == 200
            except (asyncio.IncompleteReadError, ConnectionError):
                return False

        async with asyncio.timeout(20):
            while not await served():  # until the system's buffers are full
                await asyncio.sleep(0.02)
        assert server.refused("evicted") >= 1


async def test_a_client_that_reads_again_gets_all_of_its_answer() -> None:
    path = b"/docs/parts/swagger-ui-bundle.js"
    async with serve_sockets(max_connections=2) as server:
        slow = await server.connect()
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await slow.send(b"GET %s HTTP/1.1\r\nhost: a\r\n\r\n" % path)
        assert (await server.ask(LIVEZ)).status == 200
        await asyncio.sleep(0.1)
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
        answer = await slow.answer()
        assert len(answer.body) == int(answer.headers["content-length"]) > 1_000_000
        assert (await slow.ask(LIVEZ)).status == 200


async def test_requests_that_are_served_are_never_closed_for_others() -> None:
    async with serve_sockets(held_engine, max_connections=3) as server:
        served = [await server.connect() for _ in range(3)]
        for client in served:
            await client.send(GENERATE + body_of())
        await until(lambda: server.service.client.outstanding == 3)
        refused = await server.connect()
        answer = await refused.answer()
        assert (answer.status, answer.code) == (503, "overloaded")
        assert int(answer.headers["retry-after"]) > 0
        assert server.refused("connection_limit") == 1
        server.service.engine.gate.set()
        assert [(await client.answer()).status for client in served] == [200, 200, 200]
        assert (await server.ask(LIVEZ)).status == 200


async def test_who_has_read_what_there_was_of_an_answer_is_not_closed_for_others() -> None:
    async with serve_sockets(held_engine, max_connections=1) as server:
        client = await server.connect()
        await client.send(GENERATE + body_of())
        await until(lambda: server.service.client.outstanding == 1)
        protocol: Any = next(iter(server.state.connections))
        protocol.pause_writing()
        protocol.resume_writing()
        assert (await (await server.connect()).answer()).status == 503
        server.service.engine.gate.set()
        assert (await client.answer()).status == 200
        protocol.pause_writing()
        protocol.resume_writing()
        assert (await server.ask(LIVEZ)).status == 200, "after its answer it waits for its client"


async def test_bodies_under_way_are_bounded_together() -> None:
    """Each holds what has come of it, until its request is over."""
    limits: dict[str, Any] = {
        "max_upload_bytes": 4096,
        "max_body_bytes": 4096,
        "max_bodies_bytes": 8192,
    }
    async with serve_sockets(**limits, trusted_proxies="127.0.0.1") as server:
        held = [await server.connect() for _ in range(4)]
        for number, client in enumerate(held):
            caller = b"x-forwarded-for: 192.0.2.%d\r\n" % number
            await client.send(GENERATE + caller + CHUNKED + b"\r\n7f0\r\n" + b" " * 2032 + b"\r\n")
        other = GENERATE + b"x-forwarded-for: 192.0.2.9\r\n" + body_of(negative_prompt="y" * 300)

        async def full() -> bool:
            answer = await server.ask(other)
            return answer.status == 503 and answer.code == "overloaded"

        async with asyncio.timeout(10):
            while not await full():
                await asyncio.sleep(0.02)
        assert server.count("star_rejections_total", reason="overloaded") >= 1
        for client in held:
            client.vanish()
        async with asyncio.timeout(10):
            while (await server.ask(other)).status != 200:  # given back
                await asyncio.sleep(0.02)


async def test_one_caller_cannot_take_all_room_for_bodies() -> None:
    limits: dict[str, Any] = {
        "max_upload_bytes": 4096,
        "max_body_bytes": 4096,
        "max_bodies_bytes": 8192,
    }
    async with serve_sockets(**limits, trusted_proxies="127.0.0.1") as server:
        mine, other = b"x-forwarded-for: 192.0.2.1\r\n", b"x-forwarded-for: 192.0.2.2\r\n"
        first = await server.connect()
        await first.send(GENERATE + mine + b"content-length: 4000\r\n\r\n" + b" " * 3900)
        await asyncio.sleep(0.1)
        answer = await server.ask(GENERATE + mine + body_of(negative_prompt="y" * 300))
        assert (answer.status, answer.code) == (429, "too_many_uploads")
        assert int(answer.headers["retry-after"]) > 0
        assert (await server.ask(GENERATE + other + body_of())).status == 200


# ---- before the body ---------------------------------------------------------------------------------------
async def test_a_refused_body_is_not_read_to_its_end() -> None:
    """Half a gigabyte is announced to a server that wants a key: it reads a bounded part, and closes."""
    async with serve_sockets(api_keys="k" * 16, max_upload_bytes=100_000) as server:
        client = await server.connect()
        await client.send(GENERATE + b"content-length: 500000000\r\n\r\n")
        answer = await client.answer()
        assert answer.status in (401, 413)
        assert answer.headers["connection"] == "close"
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 100_000_000:
                await client.send(b" " * 65536)
                sent += 65536
        assert sent < 50_000_000


async def test_what_has_been_refused_is_read_by_a_client_that_sends_first() -> None:
    """It writes all of its body before it reads: neither that nor the answer may be lost to a reset."""

    def send_then_read(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(GENERATE + b"content-length: 8000000\r\n\r\n")
            for _ in range(80):
                client.sendall(b" " * 100_000)
            return client.recv(65536)

    async with serve_sockets(api_keys="k" * 16, max_body_bytes=16 << 20) as server:
        answer = await asyncio.to_thread(send_then_read, server.port)
        assert answer.startswith(b"HTTP/1.1 401 ")


# ---- pipelining --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pipelined", [b"", LIVEZ, LIVEZ * 50, b" " * 60_000, b"x" * 400_000])
async def test_a_client_that_vanishes_is_noticed_whatever_it_has_pipelined(
    pipelined: bytes,
) -> None:
    async with serve_sockets(held_engine) as server:
        client = await server.connect()
        await client.send(GENERATE + body_of(n=4))
        await until(lambda: server.count("star_requests_running") == 1)
        await client.send(pipelined)
        await asyncio.sleep(0.05)
        client.vanish()
        await until(lambda: server.count("star_cancellations_total", stage="running") == 1)


async def test_too_much_ahead_of_its_turn_ends_the_connection_after_the_answer() -> None:
    async with serve_sockets(held_engine) as server:
        client = await server.connect()
        await client.send(GENERATE + body_of(seed=7))
        await until(lambda: server.count("star_requests_running") == 1)
        await client.send(GENERATE + b"content-length: 900000\r\n\r\n" + b" " * 900_000)
        server.service.engine.gate.set()
        answer = await client.answer()
        assert json.loads(answer.body)["data"][0]["seed"] == 7
        assert answer.headers["connection"] == "close"
        assert await client.closed() == b""


async def test_a_flood_behind_a_request_ends_it() -> None:
    async with serve_sockets(held_engine, max_upload_bytes=100_000) as server:
        client = await server.connect()
        await client.send(GENERATE + body_of())
        await until(lambda: server.count("star_requests_running") == 1)
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                await client.send(b" " * 65536)
        assert server.refused("flood") == 1
        await until(lambda: server.count("star_cancellations_total", stage="running") == 1)
