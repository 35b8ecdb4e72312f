"""OpenAI's images API over the fake engine: what is accepted, what is refused, what is answered."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from tests.app.test_streaming import events
from tests.server.fakes import MODEL, paint
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def strict() -> AsyncIterator[Service]:
    async with serve_fake(compatibility="strict") as running:
        yield running


async def generate(service: Service, **body: Any) -> httpx.Response:
    return await service.http.post("/v1/images/generations", json={"prompt": "a red apple", **body})


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


async def test_the_answer_has_openais_fields_and_ours(shared: Service) -> None:
    answer = await generate(shared, n=2, seed=5, top_k=7)
    body = answer.json()
    assert answer.status_code == 200
    images = body.pop("data")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "background": "opaque",
        "output_format": "png",
        "quality": "high",
        "size": "512x512",
        "usage": {
            "input_tokens": 3,
            "input_tokens_details": {"text_tokens": 3, "image_tokens": 0},
            "output_tokens": 4480,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": 4480},
            "total_tokens": 4483,
        },
        "model": "star-fake",
        "parameters": MODEL.sampling.model_dump() | {"top_k": 7},
        "warnings": [],
    }
    assert [set(image) for image in images] == [{"b64_json", "seed"}] * 2
    assert [image["seed"] for image in images] == [5, 6]
    assert opened(base64.b64decode(images[1]["b64_json"])).tobytes() == paint(6, 10).data
    for name in ("queue", "inference", "total"):
        assert float(answer.headers[f"x-{name}-time"]) >= 0
    assert answer.headers["x-request-id"]


async def test_it_is_the_same_image_as_the_native_one(shared: Service) -> None:
    """A translation, no second pipeline."""
    native = await shared.generate(seed=9, guidance_scale=2.5, negative_prompt="blue")
    openai = await generate(shared, seed=9, guidance_scale=2.5, negative_prompt="blue")
    assert openai.json()["data"] == native.json()["data"]
    assert openai.json()["parameters"] == native.json()["parameters"]


@pytest.mark.parametrize(
    "body",
    [
        {"model": "star-fake"},
        {"size": "auto"},
        {"size": "512x512"},
        {"quality": "auto"},
        {"quality": "standard"},
        {"quality": "high"},
        {"background": "auto"},
        {"background": "opaque"},
        {"moderation": "auto"},
        {"moderation": "low"},
        {"user": "user-1"},
        {"safety_identifier": "user-1"},
        {"response_format": "b64_json"},
        {"output_format": "png", "output_compression": 100},
        {"output_format": "jpeg", "output_compression": 0},
        {"stream": False, "partial_images": 0},
        dict.fromkeys(
            ("model", "n", "size", "response_format", "output_format", "output_compression", "quality", "style",
             "background", "moderation", "user", "safety_identifier", "stream", "partial_images", "seed")
        ),
    ],
    ids=str,
)  # fmt: skip
async def test_what_means_the_default_is_accepted(shared: Service, body: dict[str, Any]) -> None:
    answer = await generate(shared, **body)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == 1


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"size": "1024x1024"}, "size", '"512x512"'),
        ({"quality": "low"}, "quality", '"auto", "standard", "high"; got "low"'),
        ({"quality": "hd"}, "quality", '"hd"'),
        ({"style": "vivid"}, "style", 'null or left out; got "vivid"'),
        ({"background": "transparent"}, "background", '"auto", "opaque"; got "transparent"'),
        ({"moderation": "none"}, "moderation", '"none"'),
        ({"response_format": "file"}, "response_format", '"file"'),
        ({"output_format": "gif"}, "output_format", '"gif"'),
        ({"output_compression": 101, "output_format": "webp"}, "output_compression", "0 to 100"),
        ({"output_compression": 50}, "output_compression", "png, which is lossless"),
        ({"n": 11}, "n", "1 to 10"),
        ({"partial_images": 1}, "partial_images", "stream"),
        ({"partial_images": 4, "stream": True}, "partial_images", "0 to 3"),
        ({"response_format": "url", "stream": True}, "response_format", "b64_json"),
        ({"frame_count": 4}, "frame_count", "Unknown field frame_count"),
        ({"prompt": " "}, "prompt", "1 to 2,000"),
        ({"prompt": "a" * 2001}, "prompt", "1 to 2,000"),
        ({"n": 0}, "n", "1 to 10"),
        ({"n": 1.0}, "n", "an integer"),
        ({"size": ""}, "size", '"512x512"'),
        ({"output_format": "jpg"}, "output_format", '"jpg"'),
        ({"seed": -1}, "seed", "0 to 4294967295"),
        ({"timeout_s": 5000}, "timeout_s", "at most 3600"),
    ],
    ids=range(23),
)
async def test_a_strict_server_refuses_what_it_cannot_honour(
    strict: Service, body: dict[str, Any], param: str, words: str
) -> None:
    answer = await generate(strict, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (
        400,
        param,
        "invalid_request_error",
    )
    assert words in error["message"]


async def test_a_strict_server_answers_404_for_other_models(strict: Service) -> None:
    for answer in (
        await generate(strict, model="dall-e-3"),
        await strict.http.get("/v1/models/dall-e-3"),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"
        assert answer.json()["error"]["param"] == "model"
        assert "star-fake" in answer.json()["error"]["message"]
    assert (await strict.http.get("/v1/models/star-fake")).json()["id"] == "star-fake"
    listed = (await strict.http.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["star-fake"]


async def test_compression_reaches_the_file(shared: Service) -> None:
    sums = []
    for compression in (0, 50, 100, None):
        body = {"output_format": "jpeg", "output_compression": compression, "seed": 1}
        image = opened(
            base64.b64decode((await generate(shared, **body)).json()["data"][0]["b64_json"])
        )
        assert isinstance(image, JpegImageFile)
        sums.append(sum(image.quantization[0]))
    assert sums[0] > sums[1] > sums[2] == sums[3]


async def test_a_stream_is_openais(shared: Service) -> None:
    answer = await generate(shared, stream=True, partial_images=2, seed=3, output_format="webp")
    got = events(answer.text)
    assert [name for name, _ in got] == ["image_generation.partial_image"] * 2 + [
        "image_generation.completed"
    ]
    assert {data["output_format"] for _, data in got} == {"webp"}
    assert got[-1][1]["seed"] == 3
