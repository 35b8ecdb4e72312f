"""The soak of tenants judges rightly: it sees what is lost, unfair or wrong, and nothing else."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from benchmarks.growth import Sample
from benchmarks.metrics_page import MetricsPage
from benchmarks.tenants.__main__ import LEAST_PERIODS, schedule
from benchmarks.tenants.allowed import Allowed
from benchmarks.tenants.batch_chain import BatchChain
from benchmarks.tenants.callers import (
    IMAGES,
    LEFT,
    QUEUE_FULL,
    RATE_LIMIT,
    Asked,
    Tenant,
    misjudged,
)
from benchmarks.tenants.pictures import Pictures
from benchmarks.tenants.small_model import small_config, write_small_model
from benchmarks.tenants.stage import Stage
from benchmarks.tenants.terms import BY_DAY, BY_NIGHT, NIGHTLY, OCCASIONAL, TENANTS
from benchmarks.tenants.traffic import Traffic, Window
from benchmarks.tenants.verdict import (
    MOST_DIFFERENCE,
    MOST_WAIT,
    Findings,
    unexpected,
)
from star_model.checkpoints.native import load_model

pytestmark = pytest.mark.anyio


def png(colour: str, side: int = 8) -> str:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def answer(*colours: str, seed: int = 1, **changes: Any) -> dict[str, Any]:
    data = [{"b64_json": png(colour), "seed": seed + i} for i, colour in enumerate(colours)]
    return {"model": "red", "size": "8x8", "data": data, **changes}


# ---- what may be seen, and when
def test_while_something_changes_both_may_be_seen() -> None:
    allowed = Allowed(["old"])
    assert allowed.between(0, math.inf) == {"old"}
    with allowed.changing(["new"]):
        assert allowed.now == {"old", "new"}
    assert allowed.now == {"new"}
    (_, (begin, _), (end, _)) = allowed._phases
    assert allowed.between(begin - 2, begin - 1) == {"old"}
    assert allowed.between(begin - 1, begin) == {"old", "new"}
    assert allowed.between(end + 1, end + 2) == {"new"}
    assert allowed.between(begin - 1, end + 1) == {"old", "new"}


# ---- images
def test_the_same_request_must_give_the_same_pixels() -> None:
    pictures = Pictures("red")
    pictures.sizes["red"] = ["8x8"]
    pictures.take_all(answer("red", "blue"), "a", range(1, 3), {})
    pictures.take_all(answer("red"), "another", range(1, 2), {})
    assert (pictures.compared, pictures.wrong) == (0, {})
    assert pictures.verdict() == ["no image was compared with one from before a swap"]
    pictures.epoch = 1
    pictures.take_all(answer("red"), "a", range(1, 2), {})
    assert (pictures.compared, pictures.compared_across, pictures.verdict()) == (1, 1, [])
    pictures.take_all(answer("green"), "a", range(1, 2), {})
    assert pictures.verdict() == ["1 times: red: another image of the same prompt and seed"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (answer("red", size="9x9"), "an image of 8x8 where the answer says 9x9"),
        (answer("red", seed=2), "an answer with other seeds than were asked for"),
        (answer(), "an answer with other seeds than were asked for"),
        (answer("red", data=[{"b64_json": "AAAA", "seed": 1}]), "an image that cannot be decoded"),
    ],
)
def test_a_wrong_image_is_seen(wrong: dict[str, Any], sentence: str) -> None:
    pictures = Pictures("red")
    pictures.take_all(wrong, "a", range(1, 2), {})
    assert any(sentence in found for found in pictures.verdict())


def test_a_size_that_the_model_does_not_have_is_seen() -> None:
    pictures = Pictures("red")
    pictures.sizes["red"] = ["16x16"]
    pictures.take_all(answer("red"), "a", range(1, 2), {})
    assert "red painted 8x8, and its sizes are ['16x16']" in pictures.verdict()


# ---- answers
async def outcome_of(respond: Callable[[httpx.Request], httpx.Response], **asked: Any) -> Tenant:
    tenant = Tenant("flood", "key", Allowed([IMAGES, QUEUE_FULL]), Pictures("red"))
    transport = httpx.MockTransport(respond)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        await tenant.ask(
            http, Asked(**{"route": "generate", "prompt": "a", "seeds": range(1, 2), **asked})
        )
    return tenant


def error(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code}}, headers=headers)


async def test_an_answer_with_images() -> None:
    times = {"x-queue-time": "1.5", "x-inference-time": "0.25"}
    tenant = await outcome_of(lambda _: httpx.Response(200, json=answer("red"), headers=times))
    assert (tenant.outcomes, tenant.wrong, tenant.images) == ({IMAGES: 1}, {}, 1)
    assert tenant.painted_in_s == 1.75


async def test_images_behind_urls_are_fetched() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, content=base64.b64decode(png("red")))
        assert json.loads(request.content)["response_format"] == "url"
        return httpx.Response(200, json=answer(data=[{"url": "http://server/x", "seed": 1}]))

    tenant = await outcome_of(respond, route="url")
    assert (tenant.outcomes, tenant.wrong, tenant.pictures.wrong) == ({IMAGES: 1}, {}, {})


async def test_a_stream_of_images() -> None:
    def respond(_: httpx.Request) -> httpx.Response:
        events = [
            {"type": "image_generation.completed", "model": "red", "size": "8x8"} | image
            for image in reversed(answer("red", "blue")["data"])
        ]
        text = "".join(f"event: x\ndata: {json.dumps(event)}\n\n" for event in events)
        return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})

    tenant = await outcome_of(respond, route="stream", seeds=range(1, 3))
    assert (tenant.outcomes, tenant.images, tenant.pictures.wrong) == ({IMAGES: 1}, 2, {})


@pytest.mark.parametrize(
    ("response", "wrong"),
    [
        (error(429, "queue_full", **{"retry-after": "1"}), {}),
        (error(429, "queue_full"), {"429 queue_full without a Retry-After": 1}),
        (error(429, "rate_limit_exceeded", **{"retry-after": "1"}), {RATE_LIMIT: 1}),
        (error(401, "invalid_api_key"), {"401 invalid_api_key": 1}),
        (httpx.Response(502, text="oops"), {"502 and no error in the form of one": 1}),
        (
            httpx.Response(200, json=answer("red", model="blue")),
            {"painted by blue, not by red": 1},
        ),
    ],
)
async def test_what_is_not_allowed_is_seen(response: httpx.Response, wrong: dict[str, int]) -> None:
    assert (await outcome_of(lambda _: response)).wrong == wrong


async def test_a_request_that_is_lost_is_seen() -> None:
    def lose(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("gone", request=request)

    assert (await outcome_of(lose)).wrong == {"ReadError gone": 1}


def limited(served: list[float], refused: list[float]) -> Tenant:
    tenant = Tenant("former", "key", Allowed([]), Pictures("red"))
    tenant.served = [(at, at + 0.1) for at in served]
    tenant.refused = [(at, at + 0.1) for at in refused]
    return tenant


def test_a_limit_by_the_minute_is_kept_on_both_sides() -> None:
    # Three at once, then one every twenty seconds.
    assert misjudged(limited([0, 1, 2, 20, 40], [3, 21, 41]), 3) == []
    (much,) = misjudged(limited([0, 1, 2, 3], []), 3)
    assert much == "former was served more than 3 images a minute"
    (little,) = misjudged(limited([0, 1], [2]), 3)
    assert little == "former was refused after 2 images in a minute of 3"


# ---- the verdict
def findings(tmp_path: Path) -> Findings:
    """What a soak finds where all is well."""
    pictures = Pictures("red")
    pictures.sizes["red"] = ["8x8"]
    pictures.take_all(answer("red"), "a", range(1, 2), {})
    pictures.epoch = 1
    pictures.take_all(answer("red"), "a", range(1, 2), {})
    tenants = {name: Tenant(name, "key", Allowed([]), pictures) for name in BY_DAY}
    lines = []
    for name, tenant in tenants.items():
        tenant.outcomes.update(BY_DAY[name] | BY_NIGHT[name])
        tenant.images = 1
        counted = {"ok": 1, "rejected": len({QUEUE_FULL, RATE_LIMIT} & tenant.outcomes.keys())}
        lines += [
            f'star_key_requests_total{{key="{name}",outcome="{outcome}"}} {count}'
            for outcome, count in counted.items()
        ]
        lines.append(f'star_key_images_total{{key="{name}"}} 1')
    tenants["former"].served = [(0.0, 0.1 * i) for i in range(6)]
    tenants["former"].refused = [(1.0, 1.1)]
    tenants["former"].outcomes[RATE_LIMIT] = 1
    chain = BatchChain(
        "", "", [], 2, pictures, frozenset(), batches=1, answered=2, images=3, requests=4
    )
    lines += [
        f'star_key_requests_total{{key="{NIGHTLY}",outcome="ok"}} 4',
        f'star_key_images_total{{key="{NIGHTLY}"}} 3',
        'star_batch_requests_total{result="done"} 2',
    ]
    traffic = Traffic(Stage(tmp_path, {}, ""), tenants, [])
    traffic.windows.append(Window(dict.fromkeys(TENANTS, 20), 0))
    traffic.waits += [3] * 20
    found = Findings(tenants, pictures, chain, traffic, page=MetricsPage("\n".join(lines) + "\n"))
    for curve in found.curves.values():
        curve += [Sample(100.0, 80.0, 20.0, 9.0)] * 6
    found.seconds += range(6)
    found.last_change = 3
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").write_text(
        '{"level": "warning", "event": "worker exited"}\n'
        '{"level": "error", "event": "swap failed, the old model goes on"}\n'
    )
    return tmp_path / "log"


def test_nothing_is_wrong_where_all_is_well(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = findings(tmp_path)
    assert found.wrong(log) == []
    found.print()
    assert "shares in 1 windows" in capsys.readouterr().out
    assert json.loads(json.dumps(found.figures()))["windows"] == [dict.fromkeys(TENANTS, 20)]


Spoil = Callable[[Findings], None]


def _lose(found: Findings) -> None:
    found.tenants[OCCASIONAL].outcomes[IMAGES] += 1


def _leak(found: Findings) -> None:
    found.curves["server"][3:] = [Sample(100.0, 80.0, 25.0, 9.0)] * 3


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: f.tenants["steady"].wrong.update([LEFT]), "steady, 1 times: left"),
        (
            lambda f: f.tenants["late"].outcomes.pop(IMAGES),
            "late was to have images, and never had",
        ),
        (_lose, "occasional: the server counts"),
        (lambda f: setattr(f.chain, "answered", 1), "nightly: the server counts"),
        (lambda f: f.chain.wrong.update(["a line"]), "1 times in a batch: a line"),
        (
            lambda f: f.traffic.windows.append(Window(dict.fromkeys(TENANTS, 20), 1)),
            "window 2: a batch got 1 images while others waited",
        ),
        (
            lambda f: f.traffic.windows.append(
                Window(dict(zip(TENANTS, (20, 20, 19 - MOST_DIFFERENCE), strict=True)), 0)
            ),
            f"differ by more than {MOST_DIFFERENCE}",
        ),
        (
            lambda f: f.traffic.windows.extend(
                [Window(dict(zip(TENANTS, (24, 20, 18), strict=True)), 0)] * 50
            ),
            "further from an even share than 0.020",
        ),
        (lambda f: f.traffic.windows.clear(), "no shares were measured"),
        (
            lambda f: f.traffic.waits.extend([MOST_WAIT + 1] * 2),
            f"an occasional image waited for {MOST_WAIT + 1} of others",
        ),
        (_leak, "the changes left 5 open files"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, log: Path, spoil: Spoil, sentence: str) -> None:
    found = findings(tmp_path)
    spoil(found)
    wrong = found.wrong(log)
    assert any(sentence in each for each in wrong), wrong


def test_errors_in_the_log_are_seen(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"level": "error", "event": "batch failed"}\nTraceback\n')
    assert len(unexpected(tmp_path / "log")) == 2


async def _change() -> None:
    pass


@pytest.mark.parametrize("periods", [LEAST_PERIODS, 20, 40])
def test_changes_come_in_whole_rounds_and_leave_the_end_in_peace(periods: int) -> None:
    changes: list[Callable[[], Awaitable[None]]] = [_change] * 5
    planned = schedule(changes, periods)
    assert min(planned) == 1
    assert len(planned) % 5 == 0
    assert max(planned) <= periods - 3


def test_the_small_model_can_be_loaded(tmp_path: Path) -> None:
    model = load_model(write_small_model(tmp_path / "small", "small", seed=1))
    assert model.config == small_config("small")
