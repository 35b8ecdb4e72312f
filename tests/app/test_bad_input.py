"""Bad requests: each has the envelope, names the field, and leaves the server serving."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import anyio.to_thread
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from server.api.schemas import GenerateRequest
from server.validation import complaints
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio

NO_THREAD = "can't start new thread"


def check(answer: httpx.Response, status: int, param: str | None, *words: str) -> None:
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.status_code == status, error
    assert error["param"] == param, error
    for word in words:
        assert word in error["message"], error
    assert error["message"].endswith((".", "?")), error
    assert answer.headers["x-request-id"]


INVALID: list[tuple[dict[str, Any], str, tuple[str, ...]]] = [
    ({}, "prompt", ("prompt is required", "1 to 2,000")),
    ({"prompt": ""}, "prompt", ("1 to 2,000", "empty")),
    ({"prompt": " \n\t "}, "prompt", ("1 to 2,000", "empty")),
    ({"prompt": "x" * 2001}, "prompt", ("1 to 2,000", "2,001")),
    ({"prompt": None}, "prompt", ("a string", "null")),
    ({"prompt": 5}, "prompt", ("a string", "got 5")),
    ({"prompt": ["a"]}, "prompt", ("a string", "a list")),
    ({"prompt": "a", "negative_prompt": "x" * 2001}, "negative_prompt", ("2,000", "2,001")),
    (
        {"prompt": "a", "negative_prompt": "b", "guidance_scale": 0},
        "negative_prompt",
        ("guidance_scale is 0;", "2 for example"),
    ),
    ({"prompt": "a", "n": 0}, "n", ("an integer from 1 to 10", "got 0")),
    ({"prompt": "a", "n": 11}, "n", ("from 1 to 10", "got 11")),
    ({"prompt": "a", "n": "4"}, "n", ("an integer", 'got "4"')),
    ({"prompt": "a", "n": 2.5}, "n", ("an integer", "got 2.5")),
    ({"prompt": "a", "n": True}, "n", ("an integer", "got true")),
    ({"prompt": "a", "n": None}, "n", ("an integer", "got null")),
    ({"prompt": "a", "seed": -1}, "seed", ("0 to 4294967295", "got -1")),
    ({"prompt": "a", "seed": 2**32}, "seed", ("0 to 4294967295", "got 4294967296")),
    ({"prompt": "a", "seed": 10**100}, "seed", ("0 to 4294967295", "...")),
    ({"prompt": "a", "seed": 1.5}, "seed", ("an integer", "got 1.5")),
    ({"prompt": "a", "seed": "1"}, "seed", ("an integer", '"1"')),
    (
        {"prompt": "a", "guidance_scale": math.nan},
        "guidance_scale",
        ("a finite number from 0 to 100", "NaN"),
    ),
    (
        {"prompt": "a", "guidance_scale": math.inf},
        "guidance_scale",
        ("a finite number", "infinite"),
    ),
    ({"prompt": "a", "guidance_scale": -0.1}, "guidance_scale", ("from 0 to 100", "-0.1")),
    ({"prompt": "a", "guidance_scale": "4"}, "guidance_scale", ("a finite number", '"4"')),
    ({"prompt": "a", "top_k": -1}, "top_k", ("0 to 1000000", "-1")),
    ({"prompt": "a", "top_p": 1.01}, "top_p", ("from 0 to 1", "1.01")),
    ({"prompt": "a", "smooth_scales": -1}, "smooth_scales", ("an integer from 0", "-1")),
    ({"prompt": "a", "smooth_scales": 11}, "smooth_scales", ("0 to 10", "star-fake", "11")),
    ({"prompt": "a", "unguided_scales": 11}, "unguided_scales", ("0 to 10", "star-fake", "11")),
    ({"prompt": "a", "guidance_from": 11}, "guidance_from", ("0 to 10", "star-fake", "11")),
    ({"prompt": "a", "draft": 3}, "draft", ("0 to 2", "3")),
    ({"prompt": "a", "draft": True}, "draft", ("an integer",)),
    ({"prompt": "a", "mixed_scales": 11}, "mixed_scales", ("0 to 10", "star-fake", "11")),
    ({"prompt": "a", "unguided_temperature": 0}, "unguided_temperature", ("from 0.01 to 100", "0")),
    ({"prompt": "a", "smooth_scales": 1.5}, "smooth_scales", ("an integer", "1.5")),
    ({"prompt": "a", "size": "256x256"}, "size", ('"512x512"', '"256x256"', "star-fake")),
    ({"prompt": "a", "size": 512}, "size", ("a string", "512")),
    ({"prompt": "a", "format": "gif"}, "format", ('"png", "webp", "jpeg"', '"gif"')),
    ({"prompt": "a", "quality": 0, "format": "webp"}, "quality", ("1 to 100",)),
    ({"prompt": "a", "quality": 90}, "quality", ("webp and jpeg", "png")),
    ({"prompt": "a", "stream": "yes"}, "stream", ("true or false", '"yes"')),
    ({"prompt": "a", "stream": True, "partial_images": 4}, "partial_images", ("0 to 3",)),
    ({"prompt": "a", "partial_images": 2}, "partial_images", ("stream",)),
    ({"prompt": "a", "timeout_s": 0}, "timeout_s", ("above 0",)),
    ({"prompt": "a", "timeout_s": 5000}, "timeout_s", ("at most 3600", "5000")),
    ({"promt": "a", "prompt": "a"}, "promt", ("Unknown field promt", "did you mean prompt?")),
    ({"prompt": "a", "guidanceScale": 3}, "guidanceScale", ("did you mean guidance_scale?",)),
    ({"prompt": "a", "xyzzy": 3}, "xyzzy", ("Unknown field xyzzy", "known are prompt, ", " more.")),
    ({"prompt": "a", "style": "flat"}, "style", ("style: put the style into the prompt.",)),
    ({"prompt": "a", "Steps": 30}, "Steps", ("always runs all its scales",)),
    ({"prompt": "a", "width": 512}, "width", ("send size or aspect_ratio",)),
]


@pytest.mark.parametrize(("body", "param", "words"), INVALID)
async def test_a_bad_field_is_named_with_what_it_may_be(
    shared: Service, body: dict[str, Any], param: str, words: tuple[str, ...]
) -> None:
    content = json.dumps(body).encode()  # NaN and Infinity go over the wire as Python writes them
    answer = await shared.http.post(
        "/generate", content=content, headers={"content-type": "application/json"}
    )
    check(answer, 400, param, *words)
    assert answer.json()["error"]["code"] == "invalid_request_error"
    assert answer.headers["x-should-retry"] == "false"
    assert shared.client.idle


async def test_all_bad_fields_are_named_at_once(shared: Service) -> None:
    answer = await shared.generate(n=0, seed=-1)
    check(answer, 400, "seed", "n must be", "seed must be")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"prompt": "a"', ("not valid JSON", "character")),
        (b"not json", ("not valid JSON", "character 0")),
        (b'"a string"', ("must be a JSON object",)),
        (b"[]", ("must be a JSON object",)),
        (b"null", ("body",)),
        (b"", ("needs a body",)),
        (b'{"prompt": "\xff\xfe"}', ("cannot be read", "UTF-8")),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", ("cannot be read",)),
        (b"[" * 200_000, ("cannot be read",)),
        (b'{"prompt": "\\ud800"}', ("surrogate",)),
    ],
)
async def test_a_body_that_is_no_json_object(
    shared: Service, content: bytes, words: tuple[str, ...]
) -> None:
    answer = await shared.http.post(
        "/generate", content=content, headers={"content-type": "application/json"}
    )
    check(answer, 400, "prompt" if b"ud800" in content else None, *words)


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"],
)
async def test_a_wrong_content_type(shared: Service, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = await shared.http.post("/generate", content=b'{"prompt": "a"}', headers=headers)
    check(answer, 415, None, "application/json")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_a_right_content_type(shared: Service, content_type: str) -> None:
    answer = await shared.http.post(
        "/generate", content=b'{"prompt": "a"}', headers={"content-type": content_type}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "image/gif",
        "application/json;q=0",
        "nonsense",
        "text/css," * 5000,
        "a" * 60_000,
    ],
)
async def test_an_accept_header_that_cannot_be_met(shared: Service, accept: str) -> None:
    answer = await shared.http.post("/generate", json={"prompt": "a"}, headers={"accept": accept})
    check(answer, 406, "accept", "image/png")
    assert len(answer.content) < 400


async def test_one_image_has_room_for_one(shared: Service) -> None:
    answer = await shared.http.post(
        "/generate", json={"prompt": "a", "n": 2}, headers={"accept": "image/png"}
    )
    check(answer, 400, "n", "n must be 1")


async def test_format_and_accept_must_agree(shared: Service) -> None:
    answer = await shared.http.post(
        "/generate", json={"prompt": "a", "format": "png"}, headers={"accept": "image/webp"}
    )
    check(answer, 400, "format", "image/webp")


async def test_a_body_over_the_limit_is_refused_by_its_declared_length(shared: Service) -> None:
    limit = shared.app.state.context.settings.max_body_bytes
    answer = await shared.http.post("/v1/images/generations", json={"prompt": "x" * limit})
    check(answer, 413, None, f"{limit:,}")
    assert answer.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("path", "limit"),
    [("/v1/images/generations", "max_body_bytes"), ("/generate", "max_upload_bytes")],
)
async def test_a_body_over_the_limit_is_refused_while_it_is_read(
    shared: Service, path: str, limit: str
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 65_536
            yield b" " * 65_536

    answer = await shared.http.post(
        path, content=endless(), headers={"content-type": "application/json"}
    )
    check(answer, 413, None)
    assert sent < 2 * getattr(shared.app.state.context.settings, limit), "the body was read whole"


@pytest.mark.parametrize("prefix", ["", "/star"])
async def test_a_path_prefix_leaves_the_limits_on_bodies_as_they_are(prefix: str) -> None:
    async with serve_fake(max_body_bytes=1024, max_upload_bytes=65_536) as service:
        transport = httpx.ASGITransport(app=service.app, root_path="/star")
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:

            async def refused(path: str, length: int) -> bool:
                body = {"prompt": "a", "image": "x" * length}
                return (await http.post(prefix + path, json=body)).status_code == 413

            assert not await refused("/generate", 10_000), "an image may be larger than a text"
            assert await refused("/generate", 70_000)
            assert await refused("/v1/images/generations", 10_000)
            assert not await refused("/v1/images/edits", 10_000)
            assert await refused("/other/generate", 10_000), "there is no such route"


async def test_an_unknown_path(shared: Service) -> None:
    check(await shared.http.get("/nothing"), 404, None, "GET /nothing", "/docs")


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/generate/", "/generate"),
        ("POST", "/v1/image/generations", "/v1/images/generations"),
        ("POST", "/v1/v1/images/generations", "/v1/images/generations"),
        ("POST", "/images/generations", "/v1/images/generations"),
        ("GET", "/ready", "/readyz"),
    ],
)
async def test_a_mistyped_path(shared: Service, method: str, path: str, meant: str) -> None:
    answer = await shared.http.request(method, path)
    check(answer, 404, None, f"{method} {path};", f"did you mean {meant}?", "/docs")


async def test_a_wrong_method(shared: Service) -> None:
    answer = await shared.http.get("/generate")
    check(answer, 405, None, "POST")
    assert answer.headers["allow"] == "POST"


async def test_the_methods_of_a_path_are_those_of_all_its_routes(shared: Service) -> None:
    answer = await shared.http.put("/")
    check(answer, 405, None, "GET, HEAD, POST")
    assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_previews_can_be_switched_off() -> None:
    async with serve_fake(previews=False) as service:
        check(
            await service.generate(stream=True, partial_images=1),
            400,
            "partial_images",
            "no previews",
        )


async def test_a_fault_of_the_server_is_an_envelope_too(
    shared: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(shared.client, "submit", broken)
    answer = await shared.generate()
    check(answer, 500, None)
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(24, "Too many open files"), RuntimeError(NO_THREAD)]
)
async def test_a_shortage_is_no_fault_and_passes(
    shared: Service, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def short(*args: object) -> None:
        raise error

    monkeypatch.setattr(shared.client, "submit", short)
    answer = await shared.generate()
    check(answer, 503, None, "short of memory, threads")
    assert answer.json()["error"]["code"] == "overloaded"
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations", "/v1/images/edits"])
async def test_a_body_that_cannot_be_read_for_want_of_threads_is_not_the_callers_fault(
    shared: Service, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def short(*args: object) -> None:
        raise RuntimeError(NO_THREAD)

    monkeypatch.setattr(asyncio, "to_thread", short)
    monkeypatch.setattr(anyio.to_thread, "run_sync", short)
    large = {"prompt": "a", "negative_prompt": "x" * 100_000}
    check(await shared.http.post(path, json=large), 503, None, "short of memory, threads")
    if path.endswith("edits"):
        form = {"files": {"image": bytes(2 << 20)}, "data": {"prompt": "a"}}
        check(await shared.http.post(path, **form), 503, None, "short of memory, threads")  # type: ignore[arg-type]


async def test_after_all_of_this_it_still_serves(shared: Service) -> None:
    assert (await shared.generate()).status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*GenerateRequest.model_fields, "promt"]), JSON, max_size=4))
def test_every_complaint_is_a_sentence_about_a_field(body: dict[str, Any]) -> None:
    try:
        GenerateRequest.model_validate(body)
    except ValidationError as error:
        for complaint in complaints(error.errors(), GenerateRequest):
            assert complaint.field in {*body, "prompt"}
            assert complaint.message.endswith((".", "?"))
            assert "\n" not in complaint.message
            assert len(complaint.message) < 400
