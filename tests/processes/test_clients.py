"""The clients that people have, unmodified, against the real server: OpenAI's and Hugging Face's."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image

from tests.live_server import LiveServer, running_server
from tests.server.processes import needs_proc, wait_until, workers_of
from tests.star_model.tiny import write_tiny_model

KEY, SPENT_KEY = "sk-clients-0123456789", "sk-clients-limited-0123456789"
IMAGES_PER_MINUTE = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("clients") / "model")


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("clients")
    keys = folder / "keys"
    keys.write_text(f"# of the tests\n{KEY}\n{SPENT_KEY}\n")
    flags = (
        "--model",
        str(model),
        "--threads",
        "1",
        "--api-key-file",
        str(keys),
        "--log-format",
        "json",
    )
    limit = ("--images-per-minute", str(IMAGES_PER_MINUTE), "--restart-backoff-s", "60")
    with running_server(*flags, *limit, log=folder / "log") as running:
        yield running


def client_of(
    server: LiveServer, key: str = KEY, sent: list[object] | None = None
) -> openai.OpenAI:
    """As a user makes it, with its retries; but an answer that is not exactly OpenAI's is an error.

    ``sent`` takes each request that goes out.
    """
    http = openai.DefaultHttpxClient(
        event_hooks={"request": [([] if sent is None else sent).append]}
    )
    base_url = f"{server.url}/v1"
    return openai.OpenAI(
        base_url=base_url, api_key=key, http_client=http, _strict_response_validation=True
    )


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with client_of(server) as client:
        yield client


def opened(b64_json: str | None) -> Image.Image:
    assert b64_json is not None
    image = Image.open(io.BytesIO(base64.b64decode(b64_json)))
    image.load()
    return image


# ---- OpenAI ------------------------------------------------------------------------------------------------
def test_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == "tiny"
    assert "gpt-image-1" in names
    assert client.models.retrieve("tiny").id == "tiny"


def test_images_in_base64(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="a red apple",
        model="tiny",
        n=2,
        size="auto",
        output_format="webp",
        extra_body={"seed": 7},
    )
    assert answer.data is not None
    assert answer.usage is not None
    assert (answer.output_format, answer.size, answer.background) == ("webp", "28x28", "opaque")
    assert answer.usage.total_tokens == answer.usage.input_tokens + 2 * (1 + 4 + 25 + 49)
    images = [opened(image.b64_json) for image in answer.data]
    assert [(image.format, image.size) for image in images] == [("WEBP", (28, 28))] * 2
    assert [image.model_extra for image in answer.data] == [{"seed": 7}, {"seed": 8}]


def test_images_by_address(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="a red apple", response_format="url", extra_body={"seed": 7}
    )
    same = client.images.generate(prompt="a red apple", extra_body={"seed": 7})
    assert answer.data is not None
    assert same.data is not None
    assert answer.data[0].url is not None
    file = httpx.get(answer.data[0].url)  # without a key, as a browser would
    assert file.headers["content-type"] == "image/png"
    assert base64.b64encode(file.content).decode() == same.data[0].b64_json


def test_a_stream_of_partial_images(client: openai.OpenAI) -> None:
    with client.images.generate(
        prompt="a frog", stream=True, partial_images=2, extra_body={"seed": 3}
    ) as stream:
        events = list(stream)
    partial = [event for event in events if isinstance(event, ImageGenPartialImageEvent)]
    assert [event.partial_image_index for event in partial] == [0, 1]
    (completed,) = [event for event in events if isinstance(event, ImageGenCompletedEvent)]
    assert completed is events[-1]
    assert len({opened(event.b64_json).tobytes() for event in events}) == 3
    whole = client.images.generate(prompt="a frog", extra_body={"seed": 3})
    assert whole.data is not None
    assert completed.b64_json == whole.data[0].b64_json


def test_the_asynchronous_client(server: LiveServer) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
            stream = await client.images.generate(prompt="a frog", stream=True, partial_images=1)
            return [event.type async for event in stream]

    assert asyncio.run(ask()) == ["image_generation.partial_image", "image_generation.completed"]


ERRORS: list[tuple[str, Callable[[openai.OpenAI], object], type[openai.APIStatusError], int, str, str | None]] = [
    ("a value out of range", lambda c: c.images.generate(prompt="a", n=11),
     openai.BadRequestError, 400, "invalid_request_error", "n"),
    ("a format that is not written", lambda c: c.images.generate(prompt="a", extra_body={"output_format": "gif"}),
     openai.BadRequestError, 400, "invalid_request_error", "output_format"),
    ("an image where none is edited", lambda c: c.images.generate(prompt="a", extra_body={"image": "x"}),
     openai.BadRequestError, 400, "invalid_request_error", "image"),
    ("another model", lambda c: c.images.generate(prompt="a", model="flux"),
     openai.BadRequestError, 400, "model_not_found", "model"),
    ("another model's card", lambda c: c.models.retrieve("flux"),
     openai.NotFoundError, 404, "model_not_found", "model"),
    ("an interface that is not there", lambda c: c.embeddings.create(input="a", model="tiny"),
     openai.NotFoundError, 404, "not_found", None),
    ("a body that is too long", lambda c: c.images.generate(prompt="a" * (1 << 20)),
     openai.APIStatusError, 413, "request_too_large", None),
    ("a file that is no image", lambda c: c.images.edit(image=b"png", prompt="a"),
     openai.BadRequestError, 400, "invalid_request_error", "image"),
    ("a deadline that passes", lambda c: c.images.generate(prompt="a", extra_body={"timeout_s": 1e-6}),
     openai.InternalServerError, 504, "deadline_exceeded", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "kind", "status", "code", "param"),
    [row[1:] for row in ERRORS],
    ids=[row[0] for row in ERRORS],
)
def test_an_error_has_its_class_and_is_not_tried_again(
    server: LiveServer, call: Callable[[openai.OpenAI], object],
    kind: type[openai.APIStatusError], status: int, code: str, param: str | None,
) -> None:  # fmt: skip
    sent: list[object] = []
    with client_of(server, sent=sent) as client, pytest.raises(kind) as refused:
        call(client)
    error = refused.value
    assert type(error) is kind
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.request_id
    assert len(sent) == 1


def test_a_wrong_key(server: LiveServer) -> None:
    sent: list[object] = []
    with (
        client_of(server, "sk-wrong", sent) as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        client.images.generate(prompt="a")
    assert refused.value.code == "invalid_api_key"
    assert len(sent) == 1


def test_a_limit_that_is_used_up(server: LiveServer) -> None:
    with client_of(server, SPENT_KEY).with_options(max_retries=0) as client:
        for _ in range(IMAGES_PER_MINUTE // 10):
            client.images.generate(prompt="a", n=10)
        with pytest.raises(openai.RateLimitError) as refused:
            client.images.generate(prompt="a", n=10)
    assert refused.value.code == "rate_limit_exceeded"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 10


def test_an_error_in_mid_stream(client: openai.OpenAI) -> None:
    stream = client.images.generate(prompt="a", stream=True, extra_body={"timeout_s": 1e-6})
    with pytest.raises(openai.APIError, match="deadline") as failed:
        list(stream)
    assert failed.value.code == "deadline_exceeded"


# ---- Hugging Face ------------------------------------------------------------------------------------------
SCRIPT = """
import sys
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

url, key = sys.argv[1:]
client = InferenceClient(base_url=url, token=key)
image = client.text_to_image("a red apple", seed=7, width=28, height=28, extra_body={"top_k": 50})
image.save("apple.png")
try:
    client.text_to_image("a red apple", num_inference_steps=50)
except BadRequestError as error:
    assert "num_inference_steps must be 4" in str(error), error
try:
    InferenceClient(model=url, token="sk-wrong").text_to_image("a red apple")
except HfHubHTTPError as error:
    assert error.response.status_code == 401, error
    print("refused")
"""


def test_hugging_face(server: LiveServer, client: openai.OpenAI, tmp_path: Path) -> None:
    # In a process of its own: these tests forbid the hub's client the network, and it reads that once.
    environment: dict[str, Any] = {**os.environ, "HF_HUB_OFFLINE": "0"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, server.url, KEY],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "refused\n"), run.stderr
    same = client.images.generate(prompt="a red apple", extra_body={"seed": 7, "top_k": 50})
    assert same.data is not None
    assert Image.open(tmp_path / "apple.png").tobytes() == opened(same.data[0].b64_json).tobytes()


# ---- the end: the server that these tests share has no engine after this -----------------------------------
@needs_proc
def test_an_engine_that_is_gone(server: LiveServer) -> None:
    for worker in workers_of(server.process.pid):
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
    client = client_of(server).with_options(max_retries=0)
    with client, pytest.raises(openai.InternalServerError) as failed:
        client.images.generate(prompt="a")
    assert (failed.value.status_code, failed.value.code) == (503, "engine_dead")
    assert int(failed.value.response.headers["retry-after"]) >= 1
    assert "x-should-retry" not in failed.value.response.headers
