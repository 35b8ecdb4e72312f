"""A tiny Switti served: two text encoders, streams, edits, and sampling parameters by scale."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from star_model.sampling import Sampling
from tests.live_server import LiveServer, running_server
from tests.star_model.tiny import switti_like, write_tiny_model

OWN = Sampling(guidance_scale=6.0, unguided_scales=1, unguided_temperature=0.5, mixed_scales=3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp("model") / "switti"
    model = write_tiny_model(directory, **switti_like(), sampling=OWN)
    log = tmp_path_factory.mktemp("server") / "log"
    with running_server("--model", str(model), "--threads", "1", log=log) as running:
        yield running


def generate(server: LiveServer, **body: Any) -> dict[str, Any]:
    body = {"prompt": "a red apple", "seed": 1, "format": "webp", **body}
    answer = httpx.post(f"{server.url}/generate", json=body, timeout=60)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def test_images_depend_on_prompt_seed_and_parameters_alone(server: LiveServer) -> None:
    first = generate(server)
    assert first["parameters"] == OWN.model_dump()
    assert generate(server)["data"] == first["data"]
    assert generate(server, n=3)["data"][0] == first["data"][0]
    for change in (
        {"prompt": "a blue cat"},
        {"negative_prompt": "green"},
        {"seed": 2},
        {"mixed_scales": 0},
        {"guidance_from": 2},
        {"unguided_scales": 0},
        {"unguided_temperature": 2.0},
    ):
        assert generate(server, **change)["data"] != first["data"], change


def test_streams_previews(server: LiveServer) -> None:
    body = {
        "prompt": "a red apple",
        "seed": 1,
        "stream": True,
        "partial_images": 2,
        "format": "webp",
    }
    text = httpx.post(f"{server.url}/generate", json=body, timeout=60).raise_for_status().text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    images = [event["b64_json"] for event in events if "b64_json" in event]
    assert len(images) == 3
    assert images[-1] == generate(server)["data"][0]["b64_json"]
    assert len(set(images)) == 3


def test_edits(server: LiveServer) -> None:
    def png(mode: str, color: tuple[int, ...]) -> bytes:
        file = io.BytesIO()
        image = Image.new(mode, (28, 28), color)
        if mode == "RGBA":
            image.paste((0, 0, 0, 0), (8, 8, 20, 20))
        image.save(file, "PNG")
        return file.getvalue()

    answer = httpx.post(
        f"{server.url}/v1/images/edits",
        data={"prompt": "a red apple", "seed": "1", "response_format": "b64_json"},
        files={
            "image": ("image.png", png("RGB", (10, 20, 30)), "image/png"),
            "mask": ("mask.png", png("RGBA", (0, 0, 0, 255)), "image/png"),
        },
        timeout=60,
    ).raise_for_status()
    edited = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    colors = {edited.getpixel((x, y)) for x in range(28) for y in range(7)}
    assert colors == {(10, 20, 30)}
    assert len({edited.getpixel((x, 14)) for x in range(8, 20)}) > 1


def test_is_listed_with_its_parameters(server: LiveServer) -> None:
    card = httpx.get(f"{server.url}/v1/models").json()["data"][0]
    assert (card["size"], card["num_classes"]) == ("28x28", 0)
    assert {name: card[name] for name in Sampling.model_fields} == OWN.model_dump()
