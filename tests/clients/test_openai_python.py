"""OpenAI's client for Python, as programs written for OpenAI and for Azure use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.live_server import LiveServer
from tests.server.pictures import opened


@pytest.fixture
def client(live_server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_dall_e_3(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="dall-e-3", prompt="a fox", size="1792x1024", quality="hd", style="vivid", n=1
    )
    assert answer.data is not None
    assert answer.data[0].url is not None
    assert answer.data[0].url.endswith(".png")
    head = httpx.head(answer.data[0].url)
    assert (head.status_code, head.headers["content-type"]) == (200, "image/png")
    assert opened(httpx.get(answer.data[0].url).content).size == (512, 512)
    warnings = (answer.model_extra or {})["warnings"]
    assert [w.split()[0] for w in warnings] == ["quality", "style", "star-mini", "size"]


def test_gpt_image(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="gpt-image-1.5",
        prompt="a fox",
        background="transparent",
        moderation="low",
        output_format="webp",
        output_compression=80,
        quality="medium",
        size="1024x1536",
        user="user-1",
    )
    assert answer.data is not None
    assert opened(answer.data[0].b64_json or "").format == "WEBP"


def test_a_stream(client: openai.OpenAI) -> None:
    stream = client.images.generate(
        model="gpt-image-1", prompt="a fox", stream=True, partial_images=2, size="1024x1024"
    )
    with stream:
        kinds = [event.type for event in stream]
    assert kinds[-1] == "image_generation.completed"
    assert len(kinds) == 3


def test_edits(client: openai.OpenAI, picture: Path) -> None:
    mask = picture.with_name("mask.png")
    answer = client.images.edit(
        model="gpt-image-1",
        image=[picture],
        mask=mask,
        prompt="a fox",
        input_fidelity="low",
        quality="auto",
        size="1024x1024",
        n=1,
    )
    assert answer.data is not None
    image = opened(answer.data[0].b64_json or "")
    assert image.getpixel((0, 0)) == (128, 128, 128), "what is not marked is kept"


def test_a_model_that_is_not_there(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(model="flux", prompt="a fox")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert "gpt-image-1" in [model.id for model in client.models.list()]


def test_azure(live_server: LiveServer, picture: Path) -> None:
    with openai.AzureOpenAI(
        azure_endpoint=live_server.url, api_key="none", api_version="2026-04-01", max_retries=0
    ) as azure:
        made = azure.images.generate(model="gpt-image-1", prompt="a fox", size="1024x1024")
        assert made.data is not None
        assert opened(made.data[0].b64_json or "").size == (512, 512)
        edited = azure.images.edit(model="gpt-image-1", image=picture, prompt="a fox")
        assert edited.data is not None
        assert opened(edited.data[0].b64_json or "").size == (512, 512)
