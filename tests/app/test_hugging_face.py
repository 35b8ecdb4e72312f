"""Hugging Face's text-to-image task at the server's own address."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.server.fakes import paint
from tests.server.image_metadata import generation_of
from tests.server.service import Service, serve_fake

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


STRANGE: list[tuple[dict[str, Any], str, tuple[str, str]]] = [
    ({"width": 1024}, "width", ("width 1024: the image is 512x512", "width must be 512")),
    ({"height": 1}, "height", ("height 1: the image is 512x512", "height must be 512")),
    (
        {"num_inference_steps": 50},
        "num_inference_steps",
        ("50 had no effect: star-fake always runs its 10", "must be 10"),
    ),
    ({"scheduler": "euler"}, "scheduler", ('scheduler "euler" had no effect', 'got "euler"')),
]
"""Parameters of other models, their name, and the words of a warning and of a refusal."""


@pytest.mark.parametrize(("parameters", "param", "words"), STRANGE)
async def test_what_callers_send_out_of_habit_is_served_with_a_warning(
    shared: Service, parameters: dict[str, Any], param: str, words: tuple[str, str]
) -> None:
    answer = await ask(shared, **parameters)
    assert answer.status_code == 200, answer.text
    (warning,) = json.loads(answer.headers["x-warnings"])
    assert words[0] in warning


@pytest.mark.parametrize(("parameters", "param", "words"), STRANGE)
async def test_a_strict_server_refuses_it(
    parameters: dict[str, Any], param: str, words: tuple[str, str]
) -> None:
    async with serve_fake(compatibility="strict") as service:
        answer = await ask(service, **parameters)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == f"parameters.{param}"
    assert words[1] in answer.json()["error"]["message"]


async def test_the_models_own_values_are_no_news(shared: Service) -> None:
    answer = await ask(shared, width=512, height=512, num_inference_steps=10, scheduler=None)
    assert answer.status_code == 200
    assert "x-warnings" not in answer.headers


@pytest.mark.parametrize(
    ("parameters", "param", "words"),
    [
        ({"seed": -1}, "parameters.seed", "seed must be an integer from 0"),
        ({"width": 0}, "parameters.width", "width must be an integer from 1"),
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
