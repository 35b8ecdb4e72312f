"""HTTP as it is written: what is read as a request, what is refused as none, and what is answered.

Bytes are read alike on every event loop; what depends on the loop is in ``test_transport.py``.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.server.transport import GENERATE, LIVEZ, body_of, serve_sockets

pytestmark = pytest.mark.anyio

CHUNKED = b"transfer-encoding: chunked\r\n"


# ---- too large ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"x: " + b"y" * 9000, id="one long line"),
        pytest.param(b"x: y\r\n" * 300, id="many short lines"),
        pytest.param(b"x: " + b"y" * 2_000_000, id="more than is ever read at once"),
    ],
)
@pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
async def test_a_header_over_the_limit_is_answered_431(header: bytes, end: bytes) -> None:
    async with serve_sockets(max_header_bytes=8192) as server:
        client = await server.connect()
        answer = await client.ask(b"GET /livez HTTP/1.1\r\nhost: a\r\n" + header + end)
        assert (answer.status, answer.code) == (431, "header_too_large")
        assert server.refused("header_too_large") == 1
        assert (await server.ask(LIVEZ)).status == 200


async def test_a_header_of_almost_the_limit_is_read_in_pieces() -> None:
    async with serve_sockets(max_header_bytes=8192) as server:
        header = b"GET /livez HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 8000 + b"\r\n\r\n"
        client = await server.connect()
        for byte in (header[:31], header[31:8030], header[8030:-3], header[-3:-1], header[-1:]):
            await client.send(byte)
            await asyncio.sleep(0.01)
        assert (await client.answer()).status == 200


async def test_trailers_are_bounded_and_are_no_headers() -> None:
    chunked = GENERATE + b"transfer-encoding: chunked\r\n\r\n"
    body = b'{"prompt": "a red apple"}'
    async with serve_sockets() as server:
        whole = chunked + b"%x\r\n%s\r\n0\r\nx-request-id: stolen\r\n\r\n" % (len(body), body)
        answer = await server.ask(whole)
        assert answer.status == 200
        assert answer.headers["x-request-id"] != "stolen"
        answer = await server.ask(chunked + b"1\r\n{\r\n0\r\n" + b"x: yyyyyyyyyyyyyyy\r\n" * 9000)
        assert (answer.status, answer.code) == (400, "malformed_request")


async def test_a_body_in_tiny_chunks_is_refused() -> None:
    async with serve_sockets() as server:
        client = await server.connect()
        await client.send(GENERATE + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 5000)
        answer = await client.answer()
        assert (answer.status, answer.code) == (400, "malformed_request")
        assert server.refused("malformed") == 1, "the rest is not even looked at"


# ---- before the body ---------------------------------------------------------------------------------------
async def test_rate_limits_come_before_the_body() -> None:
    async with serve_sockets(requests_per_minute=1) as server:
        assert (await server.ask(GENERATE + body_of())).status == 200
        answer = await server.ask(GENERATE + b"content-length: 1000000\r\n\r\n")  # and none of it
        assert (answer.status, answer.code) == (429, "rate_limit_exceeded")
        assert server.count("star_rejections_total", reason="rate_limit_exceeded") == 1


async def test_expect_100_continue() -> None:
    async with serve_sockets(api_keys="k" * 16) as server:
        client = await server.connect()
        expecting = GENERATE + b"expect: 100-continue\r\n"
        answer = await client.ask(expecting + b"content-length: 30\r\n\r\n")
        assert answer.status == 401, "the key is wrong, so there is nothing to continue"

        client = await server.connect()
        head, _, body = (expecting + b"authorization: Bearer " + b"k" * 16 + b"\r\n" + body_of()).partition(
            b"\r\n\r\n"
        )  # fmt: skip
        await client.send(head + b"\r\n\r\n")
        assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"[:25]
        assert (await client.ask(body)).status == 200


# ---- not HTTP, or not quite --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /livez\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",  # no Host
        b"GET /livez HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /livez HTTP/1.1\nhost: a\n\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\nx: \x00\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 9999999999999999999999\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        GENERATE + CHUNKED + b"content-length: 5\r\n\r\n0\r\n\r\n",
        GENERATE + CHUNKED + b"\r\nzz\r\n",
        GENERATE + CHUNKED + b"\r\n-1\r\n",
        GENERATE + CHUNKED + b"\r\n1\r\nab\r\n0\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_answered_in_the_envelope(data: bytes) -> None:
    async with serve_sockets() as server:
        client = await server.connect()
        answer = await client.ask(data)
        assert (answer.status, answer.code) == (400, "malformed_request")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"]
        assert await client.closed() == b"", "nothing that follows may be taken for a request"
        assert server.refused("malformed") == 1


async def test_empty_lines_before_a_request_are_skipped() -> None:
    async with serve_sockets() as server:
        client = await server.connect()
        assert (await client.ask(b"\r\n" + LIVEZ)).status == 200
        assert (await client.ask(b"\r\n\r\n" + LIVEZ)).status == 200


async def test_a_target_with_its_origin() -> None:
    async with serve_sockets() as server:
        assert (
            await server.ask(b"GET http://a:1/livez?x HTTP/1.1\r\nhost: a\r\n\r\n")
        ).status == 200


# ---- versions and upgrades ---------------------------------------------------------------------------------
async def test_http_1_0_gets_no_chunks_and_an_end() -> None:
    body = b'{"prompt": "a red apple", "stream": true, "partial_images": 1}'
    request = (
        b"POST /generate HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
    )
    async with serve_sockets() as server:
        answer = await server.ask(request % (len(body), body))
        assert answer.status == 200
        assert "transfer-encoding" not in answer.headers
        assert answer.headers["connection"] == "close"
        assert answer.body.startswith((b"event: ", b"data: ", b":"))
        assert answer.body.endswith(b"\n\n")
        assert b"completed" in answer.body


@pytest.mark.parametrize(
    "upgrade",
    [
        b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n",
        b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    ],
)
async def test_an_upgrade_is_ignored_and_the_request_served(
    upgrade: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_sockets() as server:
        client = await server.connect()
        for _ in range(2):
            answer = await client.ask(GENERATE + upgrade + body_of(seed=1))
            assert answer.status == 200
            assert json.loads(answer.body)["data"][0]["seed"] == 1
        chunked = b"transfer-encoding: chunked\r\n\r\n19\r\n" + b'{"prompt": "a red apple"}'
        assert (await client.ask(GENERATE + upgrade + chunked + b"\r\n0\r\n\r\n")).status == 200
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


# ---- pipelining --------------------------------------------------------------------------------------------
async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serve_sockets() as server:
        client = await server.connect()
        await client.send(
            GENERATE + body_of(seed=1) + LIVEZ + GENERATE + body_of(seed=2) + LIVEZ + LIVEZ[:10]
        )
        seeds = [json.loads((await client.answer()).body) for _ in range(4)]
        assert [s.get("status") or s["data"][0]["seed"] for s in seeds] == [1, "ok", 2, "ok"]
        assert (await client.ask(LIVEZ[10:])).status == 200


async def test_requests_behind_a_body_are_kept_however_they_are_cut() -> None:
    padded = LIVEZ[:-2] + b"x: " + b"y" * 1000 + b"\r\n\r\n"
    async with serve_sockets() as server:
        client = await server.connect()
        await client.send(GENERATE + body_of(negative_prompt="y " * 500) + padded * 100)
        assert (await client.answer()).status == 200
        assert [(await client.answer()).status for _ in range(100)] == [200] * 100


# ---- HEAD and OPTIONS --------------------------------------------------------------------------------------
async def test_head_is_get_without_the_body() -> None:
    paths = (
        *("/", "/livez", "/readyz", "/health", "/startupz", "/metrics", "/docs", "/openapi.json"),
        *("/v1/models", "/v1/models/star-fake", "/static/app.js", "/docs/parts/swagger-ui.css"),
    )
    async with serve_sockets() as server:
        for path in paths:
            client = await server.connect()
            target = path.encode() + b" HTTP/1.1\r\nhost: a\r\n\r\n"
            whole = await client.ask(b"GET " + target)
            await client.send(b"HEAD " + target)
            head = await client.answer(head=True)
            assert head.status == whole.status == 200, path
            for name in ("content-type", "etag", "cache-control", "content-security-policy"):
                assert head.headers.get(name) == whole.headers.get(name), path
            if path != "/metrics":
                assert head.headers["content-length"] == whole.headers["content-length"], path
            assert (await client.ask(LIVEZ)).status == 200, f"no body of {path} came between"


async def test_preflights_have_an_id() -> None:
    async with serve_sockets(cors_origins="https://app.example.org") as server:
        answer = await server.ask(
            b"OPTIONS /generate HTTP/1.1\r\nhost: a\r\norigin: https://app.example.org\r\n"
            b"access-control-request-method: POST\r\nx-request-id: mine\r\n\r\n"
        )
        assert answer.status == 200
        assert answer.headers["x-request-id"] == "mine"
        assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
        refused = await server.ask(
            GENERATE + b"origin: https://app.example.org\r\ncontent-length: 99999999\r\n\r\n"
        )
        assert refused.status == 413
        assert refused.headers["access-control-allow-origin"] == "https://app.example.org"
