"""Hugging Face's text-to-image task at the server's own address."""

from __future__ import annotations

import io
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.server.fakes import paint
from tests.server.image_metadata import generation_of
from tests.server.service import Service

pytestmark = pytest.mark.anyio


async def ask(service: Service, accept: str = "image/png", **parameters: Any) -> httpx.Response:
    body = {"inputs": "a red apple", "parameters": parameters}
    return await service.http.post("/", json=body, headers={"accept": accept})


async def test_the_answer_is_the_image(shared: Service) -> None:
    answer = await ask(
        shared, seed=300, negative_prompt="blue", guidance_scale=2.0, width=512, height=512
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-seed"] == "300"
    assert {"x-queue-time", "x-inference-time", "x-total-time", "x-request-id"} <= set(
        answer.headers
    )
    image = Image.open(io.BytesIO(answer.content))
    assert image.tobytes() == paint(300, 10).data
    assert generation_of(answer.content)["parameters"]["negative_prompt"] == "blue"


@pytest.mark.parametrize(
    "body",
    [{"inputs": "a"}, {"inputs": "a", "parameters": None}, {"inputs": "a", "parameters": {}}],
)
async def test_parameters_may_be_left_out(shared: Service, body: dict[str, Any]) -> None:
    answer = await shared.http.post("/", json=body, headers={"accept": "*/*"})
    assert answer.headers["content-type"] == "image/png"


async def test_accept_names_the_format(shared: Service) -> None:
    assert (await ask(shared, "image/webp")).headers["content-type"] == "image/webp"
    refused = await ask(shared, "application/json")
    assert (refused.status_code, refused.json()["error"]["param"]) == (406, "accept")


@pytest.mark.parametrize(
    ("parameters", "param", "words"),
    [
        ({"width": 1024}, "parameters.width", "width must be 512"),
        ({"height": 1}, "parameters.height", "height must be 512"),
        ({"num_inference_steps": 50}, "parameters.num_inference_steps", "must be 10"),
        ({"scheduler": "euler"}, "parameters.scheduler", 'null or left out; got "euler"'),
        ({"seed": -1}, "parameters.seed", "seed must be an integer from 0"),
        ({"guidance_scal": 1}, "parameters.guidance_scal", "did you mean guidance_scale?"),
    ],
)
async def test_what_the_model_cannot_do_is_refused(
    shared: Service, parameters: dict[str, Any], param: str, words: str
) -> None:
    answer = await ask(shared, **parameters)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert words in answer.json()["error"]["message"]


async def test_a_body_that_is_missing_is_shown(shared: Service) -> None:
    assert '{"inputs": ' in (await shared.http.post("/")).json()["error"]["message"]
    answer = await shared.http.post("/", json={"inputs": "a", "parameters": 5})
    assert answer.json()["error"]["param"] == "parameters"
