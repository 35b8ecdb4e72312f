"""The safety hook, from a request to its error: what it sees, what it stops, and what happens when it fails."""

from __future__ import annotations

import asyncio
import base64
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import structlog

from server.safety.check import Check, Refusal
from tests.app.test_streaming import events
from tests.server.fakes import FakeEngine, paint
from tests.server.pictures import file_of, photo
from tests.server.service import Service, serve_fake, until

pytestmark = pytest.mark.anyio

PARTIAL, COMPLETED = "image_generation.partial_image", "image_generation.completed"


Named = Callable[[object], str]
"""Puts a hook into a module, and returns the setting that names it."""


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Named:
    def name(given: object) -> str:
        module = ModuleType("hook_under_test")
        module.check = given  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return "hook_under_test:check"

    return name


class Recorder:
    """A hook that remembers what it was asked, and answers by a function."""

    def __init__(self, answer: Callable[[Check], object] = lambda check: None) -> None:
        self.checks: list[Check] = []
        self.answer = answer

    def __call__(self, check: Check) -> object:
        self.checks.append(check)
        return self.answer(check)


def refuse(stage: str, *categories: str) -> Callable[[Check], Refusal | None]:
    return lambda check: Refusal(categories) if check.stage == stage else None


def count(service: Service, stage: str, verdict: str) -> float:
    labels = {"stage": stage, "verdict": verdict}
    value = service.models.metrics.registry.get_sample_value("star_safety_checks_total", labels)
    assert value is not None
    return value


# ---- what a hook sees ----------------------------------------------------------------------------------
async def test_it_sees_the_prompts_before_and_each_image_after(hook: Named) -> None:
    seen = Recorder()
    async with serve_fake(safety_hook=hook(seen)) as service:
        answer = await service.generate(
            n=2, seed=4, negative_prompt="blur", guidance_scale=3, prompt="an owl"
        )
    assert answer.status_code == 200
    first, *others = seen.checks
    assert (first.stage, first.prompt, first.negative_prompt) == ("input", "an owl", "blur")
    assert first.image is None
    assert first.request_id == answer.headers["x-request-id"]
    assert first.model == "star-fake"
    assert {check.image_index: check.image for check in others} == {
        0: paint(4, 10),
        1: paint(5, 10),
    }
    assert {(check.stage, check.partial, check.prompt) for check in others} == {
        ("output", False, "an owl")
    }
    assert (count(service, "input", "passed"), count(service, "output", "passed")) == (1, 2)


@pytest.mark.parametrize("stage", ["input", "output"])
async def test_it_is_asked_at_the_stage_of_the_setting_alone(hook: Named, stage: str) -> None:
    seen = Recorder()
    async with serve_fake(safety_hook=hook(seen), safety_stages=stage) as service:
        assert (await service.generate()).status_code == 200
    assert [check.stage for check in seen.checks] == [stage]


@pytest.mark.parametrize("uploads", [False, True])
async def test_it_sees_the_picture_to_edit_if_asked(hook: Named, uploads: bool) -> None:
    seen = Recorder()
    picture = base64.b64encode(file_of(photo(512, 512))).decode("ascii")
    async with serve_fake(
        safety_hook=hook(seen), safety_stages="input", safety_uploads=uploads
    ) as service:
        answer = await service.generate(image=picture, keep_scales=2)
    assert answer.status_code == 200, answer.text
    (check,) = seen.checks
    if uploads:
        assert check.image is not None
        assert check.image.data == photo(512, 512).convert("RGB").tobytes()
    else:
        assert check.image is None


# ---- what it stops -------------------------------------------------------------------------------------
async def test_a_refused_prompt_is_never_painted(hook: Named) -> None:
    name = hook(Recorder(refuse("input", "violence")))
    async with serve_fake(safety_hook=name, images_per_minute=10) as service:
        answer = await service.generate(n=10)
        again = await service.generate()
        assert service.engine.encoded == []
        assert count(service, "input", "refused") == 1
    assert answer.status_code == 400
    assert answer.headers["x-should-retry"] == "false"
    error = answer.json()["error"]
    assert error.pop("message").startswith("The safety check refused this request")
    assert error == {
        "type": "image_generation_user_error",
        "param": None,
        "code": "moderation_blocked",
        "moderation_details": {"moderation_stage": "input", "categories": ["violence"]},
    }
    # Who is refused pays for it: otherwise the hook could be asked without end.
    assert again.json()["error"]["code"] == "rate_limit_exceeded"


async def test_one_refused_image_refuses_the_batch_and_nothing_is_stored(
    hook: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = hook(Recorder(lambda check: Refusal() if check.image_index == 1 else None))
    stored: list[object] = []
    async with serve_fake(safety_hook=name) as service:
        store = service.app.state.context.store
        put = store.put

        async def counted_put(image: object) -> str:
            stored.append(image)
            name: str = await put(image)
            return name

        monkeypatch.setattr(store, "put", counted_put)
        body = {"prompt": "a fox", "n": 3, "response_format": "url"}
        answer = await service.http.post("/v1/images/generations", json=body)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["code"] == "moderation_blocked"
        assert error["moderation_details"] == {"moderation_stage": "output", "categories": []}
        assert service.client.idle
        assert not stored
        answer = await service.http.post("/v1/images/generations", json=body | {"n": 1})
        assert (answer.status_code, len(stored)) == (200, 1)


async def test_a_refusal_frees_the_rest_of_the_batch_and_is_no_disconnection(hook: Named) -> None:
    name = hook(Recorder(refuse("output")))
    first = threading.Event()

    def hold(step: Any) -> None:  # the images after the first wait for its verdict
        if first.is_set():
            service.engine.gate.clear()
        if step.scale == 9:
            first.set()

    async with serve_fake(
        make_engine=lambda: FakeEngine(slots=1, on_step=hold), safety_hook=name
    ) as service:
        for stream in (False, True):
            first.clear()
            service.engine.gate.set()
            answer = await service.generate(n=3, stream=stream)
            service.engine.gate.set()
            last = events(answer.text)[-1][1] if stream else answer.json()
            assert last["error"]["code"] == "moderation_blocked"
            assert service.client.idle
        metrics = service.models.metrics.render().decode()
    assert 'star_cancellations_total{stage="running"} 0.0' in metrics
    assert 'star_requests_total{endpoint="/generate",outcome="invalid"} 2.0' in metrics


async def test_a_stream_ends_with_the_error_after_what_has_passed(hook: Named) -> None:
    def answer(check: Check) -> Refusal | None:
        return Refusal(("nudity",)) if check.image == paint(8, 10) else None

    async with serve_fake(
        make_engine=lambda: FakeEngine(slots=1), safety_hook=hook(Recorder(answer))
    ) as service:
        got = events((await service.generate(stream=True, n=3, seed=7)).text)
    assert [name for name, _ in got] == [COMPLETED, None]
    assert got[0][1]["seed"] == 7
    assert got[1][1]["error"]["moderation_details"]["categories"] == ["nudity"]


# ---- previews --------------------------------------------------------------------------------------------
async def test_no_preview_is_sent_before_its_image_was_checked(hook: Named) -> None:
    seen = Recorder()
    async with serve_fake(safety_hook=hook(seen)) as service:
        native = await service.generate(stream=True, partial_images=2)
        body = {"prompt": "a fox", "stream": True, "partial_images": 2}
        openai = await service.http.post("/v1/images/generations", json=body)
    assert native.json()["error"]["param"] == "partial_images"
    ((name, event),) = events(openai.text)
    assert name == COMPLETED
    assert any("checks images before it sends them" in warning for warning in event["warnings"])
    assert not any(check.partial for check in seen.checks)


async def test_previews_that_are_checked_stop_at_the_first_refused_one(hook: Named) -> None:
    def answer(check: Check) -> Refusal | None:
        return Refusal() if check.image == paint(3, 8) else None

    seen = Recorder(answer)
    async with serve_fake(safety_hook=hook(seen), safety_previews="check") as service:
        got = events((await service.generate(stream=True, partial_images=2, seed=3)).text)
    assert [name for name, _ in got] == [PARTIAL, None]
    assert got[-1][1]["error"]["code"] == "moderation_blocked"
    assert [check.partial for check in seen.checks] == [False, True, True]


async def test_previews_are_sent_where_only_prompts_are_checked(hook: Named) -> None:
    async with serve_fake(safety_hook=hook(Recorder()), safety_stages="input") as service:
        got = events((await service.generate(stream=True, partial_images=2)).text)
    assert [name for name, _ in got] == [PARTIAL, PARTIAL, COMPLETED]


# ---- when it fails -----------------------------------------------------------------------------------------
def fails(check: Check) -> None:
    raise ValueError(f"cannot read {check.prompt}")


async def fails_later(check: Check) -> None:
    await asyncio.sleep(0)
    raise ConnectionError(check.prompt)


def leaves(check: Check) -> None:
    sys.exit(1)


async def leaves_later(check: Check) -> None:
    sys.exit(1)


async def is_cancelled(check: Check) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    "broken",
    [
        fails,
        fails_later,
        leaves,
        leaves_later,
        is_cancelled,
        lambda check: True,
        lambda check: False,
        lambda check: Refusal("violence"),  # type: ignore[arg-type]
        lambda check: Refusal((1,)),  # type: ignore[arg-type]
    ],
)
@pytest.mark.parametrize("on_failure", ["closed", "open"])
async def test_a_hook_that_fails_closes_or_opens_the_gate(
    hook: Named, broken: object, on_failure: str
) -> None:
    async with serve_fake(safety_hook=hook(broken), safety_on_failure=on_failure) as service:
        answer = await service.generate()
        assert count(service, "input", "error") == 1
        await service.generate()
        assert count(service, "input", "error") == 2, "the next one is asked as before"
    if on_failure == "open":
        assert answer.status_code == 200
    else:
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "safety_check_failed"
        assert service.engine.encoded == []


async def test_a_hook_that_hangs_is_given_up_and_holds_up_nothing(hook: Named) -> None:
    ends = threading.Event()

    def hang(check: Check) -> None:
        if check.prompt == "hang":
            ends.wait()

    async with serve_fake(
        safety_hook=hook(hang), safety_timeout_s=0.2, safety_concurrency=2
    ) as service:
        hanging, other = await asyncio.gather(
            service.generate(prompt="hang"), service.generate(prompt="an owl")
        )
        assert (hanging.status_code, other.status_code) == (503, 200)
        assert count(service, "input", "timeout") == 1
        # With all its threads hanging nothing is checked, and the server still answers.
        await service.generate(prompt="hang")
        assert (await service.generate(prompt="an owl")).json()["error"]["code"] == (
            "safety_check_failed"
        )
        assert (await service.http.get("/readyz")).status_code == 200
        ends.set()
        async with asyncio.timeout(20):
            while (await service.generate(prompt="an owl")).status_code != 200:
                await asyncio.sleep(0.01)
        assert count(service, "input", "timeout") >= 3


async def test_an_async_hook_that_blocks_does_not_block_the_server(hook: Named) -> None:
    ends = threading.Event()

    async def block(check: Check) -> None:
        ends.wait()

    async with serve_fake(safety_hook=hook(block), safety_timeout_s=0.2) as service:
        answer = await service.generate()
        assert answer.json()["error"]["code"] == "safety_check_failed"
        ends.set()


async def test_the_deadline_of_a_request_ends_its_check(hook: Named) -> None:
    ends = threading.Event()
    async with serve_fake(safety_hook=hook(lambda check: ends.wait() and None)) as service:
        answer = await service.generate(timeout_s=0.1)
        ends.set()
    assert answer.json()["error"]["code"] == "deadline_exceeded"


async def test_a_caller_pays_for_a_check_that_it_does_not_wait_for(hook: Named) -> None:
    ends = threading.Event()
    name = hook(lambda check: ends.wait() and None)
    async with serve_fake(safety_hook=name, requests_per_minute=1) as service:
        assert (await service.generate(timeout_s=0.1)).status_code == 504
        ends.set()
        assert (await service.generate()).json()["error"]["code"] == "rate_limit_exceeded"


async def test_a_hook_is_not_asked_about_a_request_that_has_no_room(hook: Named) -> None:
    seen = Recorder()
    async with serve_fake(
        make_engine=lambda: FakeEngine(slots=1), safety_hook=hook(seen), queue_capacity=1
    ) as service:
        service.engine.gate.clear()
        running = asyncio.ensure_future(service.generate(n=2))
        await until(lambda: service.client.outstanding == 2)
        assert (await service.generate(prompt="too much")).json()["error"]["code"] == "queue_full"
        service.engine.gate.set()
        assert (await running).status_code == 200
    assert "too much" not in [check.prompt for check in seen.checks]


# ---- the log -----------------------------------------------------------------------------------------------
async def test_the_log_has_each_verdict_and_no_text_of_a_request(hook: Named) -> None:
    def answer(check: Check) -> Refusal | None:
        if "explain" in check.prompt:
            raise ValueError(check.prompt)
        return Refusal(("violence", f"it said: {check.prompt}")) if "zz" in check.prompt else None

    with structlog.testing.capture_logs() as logs:
        async with serve_fake(safety_hook=hook(answer)) as service:
            for prompt in ("an owl", "secret zz", "secret explain"):
                await service.generate(prompt=prompt)
    lines = [line for line in logs if line["event"] == "safety check"]
    assert [(line["stage"], line["verdict"]) for line in lines] == [
        ("input", "passed"),
        ("output", "passed"),
        ("input", "refused"),
        ("input", "error"),
    ]
    assert lines[2]["categories"] == ["violence"]
    assert lines[3]["error"].startswith("ValueError at test_safety.py:")
    requests = {line["request_id"] for line in logs if line["event"] == "request"}
    assert {line["request_id"] for line in lines} <= requests
    assert "secret" not in str(logs)


# ---- none -------------------------------------------------------------------------------------------------
async def test_without_a_hook_there_is_no_gate(service: Service) -> None:
    assert service.app.state.context.safety is None
    assert not [t for t in threading.enumerate() if t.name.startswith("safety")]
