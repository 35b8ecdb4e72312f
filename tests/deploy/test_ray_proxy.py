"""What Ray's proxy leaves unsaid, or says in plain text, becomes the envelope; what the app says stays as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.metrics import Metrics
from server.ray.metrics import merge_metrics
from server.ray.proxy import ReplicaErrors

pytestmark = pytest.mark.anyio


async def ask(app: ASGIApp, path: str = "/generate") -> httpx.Response:
    transport = httpx.ASGITransport(app=ReplicaErrors(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://ray") as http:
        return await http.get(path, headers={"x-request-id": "mine"})


async def dies(scope: Scope, receive: Receive, send: Send) -> None:
    """As Ray's proxy does when a replica is gone: it returns without an answer."""


def dies_after(first: bytes, media_type: str) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", media_type.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})

    return app


async def test_a_replica_that_is_gone() -> None:
    answer = await ask(dies)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_dead")
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["x-request-id"] == "mine"


async def test_a_replica_that_is_gone_in_mid_stream() -> None:
    answer = await ask(dies_after(b"event: a\ndata: {}\n\n", "text/event-stream; charset=utf-8"))
    first, second = answer.text.strip().split("\n\n")
    assert first == "event: a\ndata: {}"
    assert second.startswith(
        'data: {"error": {"message": "The replica that worked on this request has died'
    )


@pytest.mark.parametrize(
    ("status", "answered", "code"),
    [
        (503, 503, "unavailable"),
        (404, 503, "unavailable"),
        (408, 504, "deadline_exceeded"),
        (429, 429, "queue_full"),
        (500, 500, "internal_error"),
    ],
)
async def test_a_refusal_of_rays_own(status: int, answered: int, code: str) -> None:
    answer = await ask(PlainTextResponse("Deployment is unavailable", status))
    assert (answer.status_code, answer.json()["error"]["code"]) == (answered, code)


async def test_what_the_app_answers_is_left_alone() -> None:
    error = {"error": {"code": "queue_full"}}
    answer = await ask(JSONResponse(error, 429, {"retry-after": "7"}))
    assert (answer.status_code, answer.json(), answer.headers["retry-after"]) == (429, error, "7")

    async def parts() -> AsyncIterator[bytes]:
        for part in (b"a", b"b"):
            yield part

    assert (await ask(StreamingResponse(parts(), media_type="text/event-stream"))).text == "ab"


async def test_a_request_id_is_told_once() -> None:
    response = JSONResponse({})
    response.headers.append("x-request-id", "mine")
    response.headers.append("x-request-id", "mine")
    assert (await ask(response)).headers.get_list("x-request-id") == ["mine"]


async def test_rays_own_paths_are_left_alone() -> None:
    assert (await ask(PlainTextResponse("starting", 503), "/-/healthz")).text == "starting"


def test_metrics_of_two_replicas_are_one_text() -> None:
    one, other = Metrics(), Metrics()
    one.images.labels("0").inc(3)
    other.images.labels("0").inc(4)
    text = merge_metrics({"b": other.render().decode(), "a": one.render().decode()}).decode()
    lines = [
        line
        for line in text.splitlines()
        if line.startswith(("star_images_total", "# TYPE star_images_total"))
    ]
    assert lines == [
        "# TYPE star_images_total counter",
        'star_images_total{replica="a",worker="0"} 3.0',
        'star_images_total{replica="b",worker="0"} 4.0',
    ]
    assert text.count("# TYPE star_request_duration_seconds histogram") == 1
