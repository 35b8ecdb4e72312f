"""A class-conditional model served: classes by number and by name, and what is said when there is no such class."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from server.commands.cli import main
from tests.live_server import LiveServer, running_server
from tests.star_model.tiny import class_conditional, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "classes", **class_conditional(1000))


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    log = tmp_path_factory.mktemp("server") / "log"
    with running_server("--model", str(model), "--threads", "1", log=log) as running:
        yield running


def generate(server: LiveServer, **body: Any) -> httpx.Response:
    # Without the prompt in the file, equal pixels are equal files.
    body = {"seed": 1, "metadata": "provenance", **body}
    return httpx.post(f"{server.url}/generate", json=body, timeout=60)


def test_a_class_by_number_name_and_synonym(server: LiveServer) -> None:
    same: list[dict[str, Any]] = [
        {"class_id": 1}, {"prompt": "1"}, {"prompt": "a Goldfish"}, {"prompt": "Carassius auratus"}
    ]  # fmt: skip
    images = [
        generate(server, **body, format="webp").raise_for_status().json()["data"][0]["b64_json"]
        for body in [*same, {"class_id": 2}]
    ]
    assert len(set(images[:-1])) == 1
    assert images[-1] != images[0]


def test_a_negative_class(server: LiveServer) -> None:
    body = {"class_id": 1, "guidance_scale": 50, "format": "webp"}
    plain, against = generate(server, **body), generate(server, **body, negative_prompt="tench")
    assert plain.json()["data"] != against.raise_for_status().json()["data"]


@pytest.mark.parametrize(
    ("body", "param", "parts"),
    [
        (
            {"prompt": "crane"},
            "prompt",
            ("134 is crane: large long-necked wading bird", "517 is crane: lifts"),
        ),
        (
            {"prompt": "cat"},
            "prompt",
            ("'cat' is not the name of an ImageNet class; did you mean tiger cat (282)",),
        ),
        (
            {"prompt": "goldfish", "negative_prompt": "cat"},
            "negative_prompt",
            ("did you mean tiger cat",),
        ),
        ({"class_id": 1000}, "class_id", ("there is no class 1000: the classes are 0 to 999",)),
        ({"class_id": -1}, "class_id", ("class_id must be an integer",)),
        ({"class_id": "1"}, "class_id", ("class_id must be an integer",)),
        ({"class_id": 1, "prompt": "tench"}, "class_id", ("leave one of them out",)),
        ({"class_id": None}, "prompt", ("prompt is required",)),
        ({}, "prompt", ("prompt is required",)),
    ],
)
def test_what_is_no_class_is_refused(
    server: LiveServer, body: dict[str, Any], param: str, parts: tuple[str, ...]
) -> None:
    answer = generate(server, **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, "invalid_request_error")
    for part in parts:
        assert part in error["message"]


def test_the_openai_client_paints_classes(server: LiveServer) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    images = client.images.generate(prompt="golden retriever", response_format="b64_json")
    assert images.data is not None
    assert base64.b64decode(images.data[0].b64_json or "").startswith(b"\x89PNG")


def test_the_model_says_how_many_classes_it_has(server: LiveServer) -> None:
    card = httpx.get(f"{server.url}/v1/models").json()["data"][0]
    assert card["num_classes"] == 1000


def test_the_command_line_paints_classes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["-o", str(tmp_path / "fish.png"), "--model", str(model), "--seed", "1"]
    assert main(["generate", "cat", *flags]) == 2
    assert "did you mean tiger cat" in capsys.readouterr().err
    assert main(["generate", "goldfish", *flags]) == 0
    assert (tmp_path / "fish.png").read_bytes().startswith(b"\x89PNG")
