"""A server whose settings make drafts: what a request gets, and how it asks for the whole image."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops

from tests.live_server import LiveServer, running_server
from tests.star_model.tiny import write_tiny_model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    model = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    log = tmp_path_factory.mktemp("server") / "log"
    flags = ("--model", str(model), "--threads", "1", "--draft", "2", "--unguided-scales", "3")
    with running_server(*flags, log=log) as running:
        yield running


def generate(server: LiveServer, **body: Any) -> tuple[dict[str, Any], Image.Image]:
    """The parameters that the answer reports, and the image."""
    body = {"prompt": "a red apple", "seed": 1, **body}
    answer = httpx.post(f"{server.url}/generate", json=body, timeout=60).raise_for_status().json()
    image = Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
    image.load()
    return answer["parameters"], image


def test_settings_are_the_defaults_of_requests(server: LiveServer) -> None:
    card = httpx.get(f"{server.url}/v1/models/tiny").raise_for_status().json()
    assert (card["draft"], card["unguided_scales"]) == (2, 3)
    parameters, draft = generate(server)
    assert (parameters["draft"], parameters["unguided_scales"]) == (2, 3)
    parameters, whole = generate(server, draft=0, unguided_scales=0)
    assert (parameters["draft"], parameters["unguided_scales"]) == (0, 0)
    assert draft.size == whole.size
    assert ImageChops.difference(draft, whole).getbbox() is not None
    _, again = generate(server, draft=2)
    assert ImageChops.difference(draft, again).getbbox() is None


def test_what_is_no_draft_is_refused(server: LiveServer) -> None:
    answer = httpx.post(f"{server.url}/generate", json={"prompt": "a cat", "draft": 3})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "draft"
    assert "0 to 2" in answer.json()["error"]["message"]
