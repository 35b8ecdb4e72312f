"""A tiny Infinity served: bits, two shapes, streams, edits, and guidance and temperature by scale."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.live_server import LiveServer, running_server
from tests.star_model.tiny import infinity_like, write_tiny_model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp("model") / "infinity"
    model = write_tiny_model(directory, **infinity_like(token_patch=2))
    log = tmp_path_factory.mktemp("server") / "log"
    with running_server("--model", str(model), "--threads", "1", log=log) as running:
        yield running


def generate(server: LiveServer, **body: Any) -> dict[str, Any]:
    body = {"prompt": "a red apple", "seed": 1, "format": "png", **body}
    answer = httpx.post(f"{server.url}/generate", json=body, timeout=60)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def picture(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def test_images_depend_on_prompt_seed_and_parameters_alone(server: LiveServer) -> None:
    first = generate(server)
    assert first["parameters"]["temperature"] == 0.5
    assert generate(server)["data"] == first["data"]
    assert generate(server, n=3)["data"][0] == first["data"][0]
    for change in (
        {"prompt": "a blue cat"},
        {"negative_prompt": "green"},
        {"seed": 2},
        {"temperature": 5.0},
        {"temperature_by_scale": "0.5,5"},
        {"guidance_by_scale": "1,9"},
        {"guidance_scale": 1},
    ):
        assert generate(server, **change)["data"] != first["data"], change


@pytest.mark.parametrize(
    ("asked", "size"),
    [({}, (28, 28)), ({"size": "28x16"}, (28, 16)), ({"aspect_ratio": "16:9"}, (28, 16))],
)
def test_shapes(server: LiveServer, asked: dict[str, str], size: tuple[int, int]) -> None:
    answer = generate(server, **asked)
    assert answer["size"] == f"{size[0]}x{size[1]}"
    assert picture(answer["data"][0]["b64_json"]).size == size
    assert generate(server, **asked, n=2)["data"][0] == answer["data"][0]


def test_streams_previews_of_a_shape(server: LiveServer) -> None:
    body = {
        "prompt": "a red apple",
        "seed": 1,
        "stream": True,
        "partial_images": 2,
        "size": "28x16",
        "format": "png",
    }
    text = httpx.post(f"{server.url}/generate", json=body, timeout=60).raise_for_status().text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    images = [event for event in events if "b64_json" in event]
    assert len(images) == 3
    assert {image["size"] for image in images} == {"28x16"}
    assert {picture(image["b64_json"]).size for image in images} == {(28, 16)}
    whole = generate(server, size="28x16")
    assert images[-1]["b64_json"] == whole["data"][0]["b64_json"]


def test_an_edit_has_the_shape_of_its_image(server: LiveServer) -> None:
    def png(image: Image.Image) -> str:
        file = io.BytesIO()
        image.save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()

    mask = Image.new("L", (28, 16), 0)
    mask.paste(255, (8, 4, 20, 12))
    answer = generate(
        server,
        image=png(Image.new("RGB", (28, 16), (10, 20, 30))),
        mask=png(mask),
        mask_kind="luminance",
    )
    assert answer["size"] == "28x16"
    edited = picture(answer["data"][0]["b64_json"]).convert("RGB")
    assert edited.size == (28, 16)
    assert {edited.getpixel((x, y)) for x in range(28) for y in range(4)} == {(10, 20, 30)}
    assert len({edited.getpixel((x, 8)) for x in range(8, 20)}) > 1


def test_its_sizes_are_listed(server: LiveServer) -> None:
    card = httpx.get(f"{server.url}/v1/models").json()["data"][0]
    assert (card["size"], card["sizes"]) == ("28x28", ["28x28", "28x16"])
    assert card["guidance_scale"] == 3
