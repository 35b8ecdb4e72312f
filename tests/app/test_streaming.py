"""Server-sent events."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from typing import Any

import pytest
from PIL import Image

from tests.server.fakes import FakeEngine, paint
from tests.server.service import Service, post_generate, serve_fake, until

pytestmark = pytest.mark.anyio


def events(text: str) -> list[tuple[str | None, dict[str, Any]]]:
    """Name and data of each event of a stream, comments left out."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")
        )
        if fields:
            found.append((fields.get("event"), json.loads(fields["data"])))
    return found


def pixels(event: dict[str, Any]) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(event["b64_json"]))).tobytes()


async def test_previews_then_the_image(service: Service) -> None:
    answer = await service.generate(stream=True, partial_images=2, seed=3)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    got = events(answer.text)
    assert [name for name, _ in got] == ["image_generation.partial_image"] * 2 + [
        "image_generation.completed"
    ]
    assert all(name == data["type"] for name, data in got)
    assert [data["partial_image_index"] for _, data in got[:2]] == [0, 1]
    assert [pixels(data) for _, data in got] == [paint(3, scale).data for scale in (6, 8, 10)]
    for _, data in got:
        assert data["size"] == "512x512"
        assert data["output_format"] == "png"
        assert data["background"] == "opaque"
        assert "image_index" not in data
    final = got[-1][1]
    assert final["seed"] == 3
    assert final["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"text_tokens": 3, "image_tokens": 0},
        "output_tokens": 2240,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 2240},
        "total_tokens": 2243,
    }


async def test_several_images_have_indices(service: Service) -> None:
    got = events((await service.generate(stream=True, n=3, seed=10)).text)
    assert sorted((data["image_index"], data["seed"]) for _, data in got) == [
        (0, 10),
        (1, 11),
        (2, 12),
    ]


async def test_an_error_in_mid_stream_is_an_event(service: Service) -> None:
    answer = await service.generate(stream=True, prompt="explode")
    assert answer.status_code == 200
    ((name, data),) = events(answer.text)
    assert name is None
    assert data["error"]["code"] == "internal_error"
    outcome = {"endpoint": "/generate", "outcome": "error"}
    assert service.models.metrics.registry.get_sample_value("star_requests_total", outcome) == 1


async def test_a_request_that_is_refused_has_no_stream() -> None:
    async with serve_fake(loaded=threading.Event(), wait=False) as service:
        answer = await service.generate(stream=True)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_loading"


async def test_silence_is_filled_with_comments() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with serve_fake(make_engine=lambda: engine, stream_comment_s=0.02) as service:
        asyncio.get_running_loop().call_later(0.2, engine.gate.set)
        answer = await service.generate(stream=True)
    assert answer.text.count(": keep-alive\n\n") >= 3
    assert len(events(answer.text)) == 1


async def test_a_reader_that_leaves_frees_its_slots() -> None:
    engine = FakeEngine(step_seconds=0.02)
    async with serve_fake(make_engine=lambda: engine) as service:
        hung_up = asyncio.Event()
        body = json.dumps({"prompt": "a", "stream": True, "partial_images": 3}).encode()
        requests = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, object]:
            if requests:
                return requests.pop()
            await hung_up.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            if b"partial_image" in bytes(message.get("body", b"")):  # type: ignore[call-overload]
                hung_up.set()

        await service.app(post_generate(), receive, send)  # type: ignore[arg-type]
        assert service.client.outstanding == 0
        await until(lambda: engine.free_slots == 8)
        assert len(engine.steps) < 10
        outcome = {"endpoint": "/generate", "outcome": "cancelled"}
        assert service.models.metrics.registry.get_sample_value("star_requests_total", outcome) == 1
