"""Bodies, names and paths that are made to cost much or to mislead: short answers, and harmless characters."""

from __future__ import annotations

import difflib
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from server.api.schemas import GenerateRequest
from server.http import json_body
from server.validation import complaints, unknown
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
LONGEST_ANSWER = 4096


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Service]:
    async with serve_fake(max_body_bytes=16 << 20) as running:
        yield running


async def refusal(service: Service, path: str, body: bytes) -> str:
    answer = await service.http.post(path, content=body, headers=JSON)
    assert answer.status_code == 400
    assert len(answer.content) <= LONGEST_ANSWER
    message: str = answer.json()["error"]["message"]
    return message


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations", "/v1/images/edits"])
@pytest.mark.parametrize(
    "body",
    [
        {f"unknown_{i}": i for i in range(60_000)},
        {"prompt": "a", "x": [{f"unknown_{i}": i for i in range(60_000)}]},
        {"prompt": "a", "x": list(range(100_000))},
        {"prompt": "a", "n": [[]] * 60_000, "size": {"x" * 1000: "y" * 1000}, "seed": "z" * 9000},
        {f"{i}{'x' * 5000}": i for i in range(100)} | {"prompt": ""},
    ],
    ids=["fields", "inner fields", "values", "wrong values", "long names"],
)
async def test_many_faults_have_a_short_answer(
    shared: Service, path: str, body: dict[str, Any]
) -> None:
    await refusal(shared, path, json.dumps(body).encode())


async def test_the_first_faults_are_explained_and_the_rest_counted(shared: Service) -> None:
    body = {"prompt": "a", **{f"unknown_{i}": i for i in range(100)}}
    message = await refusal(shared, "/generate", json.dumps(body).encode())
    assert message.count("Unknown field") == 5
    assert message.endswith("95 more values are invalid.")


@pytest.mark.parametrize("depth", [33, 500, 60_000])
@pytest.mark.parametrize(("left", "right"), [(b"[", b"]"), (b'{"a":', b"}")])
async def test_deep_nesting_is_refused_before_validation(
    shared: Service, depth: int, left: bytes, right: bytes
) -> None:
    body = b'{"prompt": ' + left * depth + b"1" + right * depth + b"}"
    for path in ("/generate", "/v1/images/generations"):
        assert "nested more than 32 deep" in await refusal(shared, path, body)


async def test_what_is_nested_as_deep_as_allowed_is_validated(shared: Service) -> None:
    body = b'{"prompt": ' + b"[" * 31 + b"]" * 31 + b"}"
    assert "prompt must be a string" in await refusal(shared, "/generate", body)


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations"])
async def test_a_large_body_is_parsed_in_a_thread(
    shared: Service, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    threads: list[threading.Thread] = []
    parse = json_body.parse_json

    def watched(body: bytes) -> Any:
        threads.append(threading.current_thread())
        return parse(body)

    monkeypatch.setattr(json_body, "parse_json", watched)
    await refusal(shared, path, b'{"prompt": "' + b"x" * 200_000 + b'"}')
    assert threads
    assert threading.main_thread() not in threads


async def test_names_are_shown_without_control_characters_and_direction_marks(
    shared: Service,
) -> None:
    body = json.dumps({"prompt": "a", "\x1b[2Jx\u202e": 1}).encode()
    assert r"Unknown field \x1b[2Jx\u202e" in await refusal(shared, "/generate", body)
    answer = await shared.http.get("/%1b%5d0;x%07" + "a" * 50_000)
    assert answer.status_code == 404
    assert len(answer.content) < 500
    assert r"/\x1b]0;x\x07aaa" in answer.json()["error"]["message"]


async def test_a_suggestion_never_repeats_what_was_sent(shared: Service) -> None:
    assert unknown("field", "images", ["images", "prompt"]) == "Unknown field images."
    error = {"type": "extra_forbidden", "loc": ("size",), "msg": "", "input": 1}
    (complaint,) = complaints([error], GenerateRequest)
    assert complaint.message == "Unknown field size."


def test_the_search_for_a_similar_name_reads_the_beginning_of_a_long_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def watched(word: str, *args: object, **options: object) -> list[str]:
        asked.append(word)
        return []

    monkeypatch.setattr(difflib, "get_close_matches", watched)
    unknown("field", "x" * 1_000_000, ["prompt"])
    assert [len(word) for word in asked] == [60]


async def logged(path: str, body: Any = None, **settings: Any) -> dict[str, Any]:
    """Send one request, and return its line of the log."""
    with structlog.testing.capture_logs() as lines:
        async with serve_fake(**settings) as service:
            await service.http.request("POST" if body is not None else "GET", path, json=body)
    (line,) = [line for line in lines if line["event"] == "request"]
    return dict(line)


async def test_a_refusal_is_logged_with_field_and_reason_but_without_texts_that_were_sent() -> None:
    line = await logged("/generate", {"prompt": "a", "n": 11})
    assert line["param"] == "n"
    assert line["reason"] == "n must be an integer from 1 to 10; got 11."
    line = await logged("/generate", {"prompt": "a", "size": 'a secret "frog'})
    assert line["param"] == "size"
    assert "got a string" in line["reason"]
    assert "frog" not in str(line)


async def test_a_line_of_the_log_is_short() -> None:
    assert len(str(await logged("/" + "a" * 50_000))) < 1000
    assert len(str(await logged("/generate", {"x" * 5000 + str(i): 1 for i in range(99)}))) < 1000


@pytest.mark.parametrize("log_client_address", [False, True])
async def test_the_address_of_the_caller_is_logged_only_when_asked_for(
    log_client_address: bool,
) -> None:
    line = await logged("/v1/models", log_client_address=log_client_address)
    assert line.get("client") == ("127.0.0.1" if log_client_address else None)
