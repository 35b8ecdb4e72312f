"""Models that make images of several shapes: which one a request gets, and what else is refused."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import pytest
from PIL import Image

from server.messages import ImageShape
from tests.server import fakes
from tests.server.image_metadata import generation_of
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio

WIDE, TALL = ImageShape(1024, 256, 2000), ImageShape(256, 1024, 2000)


@pytest.fixture
async def shapely(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A model whose images have 512 x 512, 1024 x 256 or 256 x 1024 pixels."""
    monkeypatch.setattr(fakes, "MODEL", replace(fakes.MODEL, other_shapes=(WIDE, TALL)))
    async with serve_fake() as running:
        yield running


def picture(width: int, height: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, "512x512"),
        ({"size": "1024x256"}, "1024x256"),
        ({"size": "256x1024"}, "256x1024"),
        ({"aspect_ratio": "1:1"}, "512x512"),
        ({"aspect_ratio": "21:9"}, "1024x256"),
        ({"aspect_ratio": "1:3.5"}, "256x1024"),
        ({"image": picture(2048, 512)}, "1024x256"),
        ({"image": picture(30, 30)}, "512x512"),
        ({"image": picture(30, 30), "size": "256x1024", "place": "0,0,1,0.25"}, "256x1024"),
    ],
)
async def test_a_request_names_a_shape(shapely: Service, asked: dict[str, Any], size: str) -> None:
    answer = (await shapely.generate(**asked)).json()
    assert answer["size"] == size, answer


@pytest.mark.parametrize(
    ("asked", "warned"),
    [
        ({"aspect_ratio": "1:1"}, []),
        ({"aspect_ratio": "4.1:1"}, []),
        ({"size": "1024x256"}, []),
        (
            {"aspect_ratio": "16:9"},
            ["The images are 512x512: star-fake has no size nearer to 16:9."],
        ),
        (
            {"aspect_ratio": "1:3"},
            ["The images are 256x1024: star-fake has no size nearer to 1:3."],
        ),
    ],
)
async def test_another_ratio_than_was_asked_for_is_a_warning(
    shapely: Service, asked: dict[str, Any], warned: list[str]
) -> None:
    assert (await shapely.generate(**asked)).json()["warnings"] == warned


@pytest.mark.parametrize(
    ("asked", "param", "parts"),
    [
        ({"size": "640x640"}, "size", ('"512x512" or "1024x256" or "256x1024"', "star-fake")),
        ({"size": "512x512", "aspect_ratio": "1:1"}, "aspect_ratio", ("leave one of them out",)),
        ({"aspect_ratio": "wide"}, "aspect_ratio", ("wide",)),
        ({"aspect_ratio": "0:1"}, "aspect_ratio", ("0:1",)),
        (
            {"image": picture(100, 60)},
            "image",
            ("100 x 60", "512 x 512, 1024 x 256, 256 x 1024", "crop it", 'place="0,0,1,1"'),
        ),
        (
            {"image": picture(30, 30), "size": "1024x256"},
            "image",
            ("30 x 30", "1024 x 256", "crop it to that shape"),
        ),
    ],
)
async def test_a_shape_that_it_does_not_make(
    shapely: Service, asked: dict[str, Any], param: str, parts: tuple[str, ...]
) -> None:
    answer = await shapely.generate(**asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert all(part in error["message"] for part in parts), error


async def test_images_of_one_step_have_one_shape(shapely: Service) -> None:
    """The fake engine fails a step over several."""
    shapely.engine.gate.clear()
    sizes: list[str] = []

    async def ask(size: str) -> None:
        answer = await shapely.generate(size=size, n=2)
        assert answer.status_code == 200, answer.text
        sizes.append(answer.json()["size"])

    async with anyio.create_task_group() as tasks:
        for size in ("512x512", "1024x256", "512x512", "256x1024"):
            tasks.start_soon(ask, size)
        await anyio.sleep(0.05)
        shapely.engine.gate.set()
    assert sorted(sizes) == ["1024x256", "256x1024", "512x512", "512x512"]


async def test_the_model_lists_its_sizes(shapely: Service) -> None:
    card = (await shapely.http.get("/v1/models/star-fake")).json()
    assert (card["size"], card["sizes"]) == ("512x512", ["512x512", "1024x256", "256x1024"])


@pytest.mark.parametrize(
    ("asked", "size", "warned"),
    [
        ("auto", "512x512", False),
        ("1024x256", "1024x256", False),
        ("1792x1024", "512x512", True),
        ("1024x1792", "512x512", True),
        ("2048x600", "1024x256", True),
        ("large", "512x512", True),
    ],
)
async def test_sizes_of_openai_get_the_nearest(
    shapely: Service, asked: str, size: str, warned: bool
) -> None:
    body = {"model": "gpt-image-1", "prompt": "a fox", "size": asked}
    answer = (await shapely.http.post("/v1/images/generations", json=body)).json()
    assert answer["size"] == size
    assert any(f"the images are {size}" in text for text in answer["warnings"]) == warned


async def test_hugging_face_asks_for_width_and_height(shapely: Service) -> None:
    async def ask(**parameters: int) -> Any:
        body = {"inputs": "a fox", "parameters": parameters}
        return await shapely.http.post("/", json=body)

    sizes = [
        ({"width": 1024, "height": 256}, "1024x256", False),
        ({"height": 1024}, "256x1024", False),
        ({"width": 1000, "height": 1000}, "512x512", True),
        ({"width": 640, "height": 200}, "1024x256", True),
    ]
    for parameters, size, warned in sizes:
        answer = await ask(**parameters)
        assert answer.status_code == 200, answer.text
        assert ("x-warnings" in answer.headers) == warned
        assert generation_of(answer.content)["size"] == size


async def test_guidance_of_one_is_none_where_it_is_constant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fakes, "MODEL", replace(fakes.MODEL, guidance="constant"))
    async with serve_fake() as service:
        answer = await service.generate(negative_prompt="rain", guidance_scale=1.0)
        assert answer.json()["error"]["param"] == "negative_prompt"
        answer = await service.generate(negative_prompt="rain", guidance_by_scale="1,1,3")
        assert answer.status_code == 200
        for wrong in ("1,x", "200"):
            answer = await service.generate(guidance_by_scale=wrong)
            assert answer.json()["error"]["param"] == "guidance_by_scale"
