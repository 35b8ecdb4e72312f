"""``POST /generate``: what is answered, in which form."""

from __future__ import annotations

import asyncio
import base64
import io
import json

import anyio
import pytest
import structlog
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from tests.server.fakes import MODEL, PATCH_NUMS, FakeEngine, Step, paint
from tests.server.image_metadata import generation_of
from tests.server.service import Service, post_generate, serve_fake, until

pytestmark = pytest.mark.anyio


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


async def test_json_holds_the_images_and_how_to_paint_them_again(service: Service) -> None:
    answer = await service.generate(prompt="  a red apple ", seed=5, n=2, top_k=7, smooth_scales=2)
    body = answer.json()
    assert answer.status_code == 200
    assert {k: body[k] for k in ("model", "dtype", "size", "format", "parameters", "warnings")} == {
        "model": "star-fake",
        "dtype": MODEL.dtype,
        "size": "512x512",
        "format": "png",
        "parameters": MODEL.sampling.model_dump() | {"top_k": 7, "smooth_scales": 2},
        "warnings": [],
    }
    assert isinstance(body["created"], int)
    assert [d["seed"] for d in body["data"]] == [5, 6]
    first = opened(base64.b64decode(body["data"][0]["b64_json"]))
    assert first.tobytes() == paint(5, 10).data
    assert service.engine.encoded == ["a red apple"]


async def test_a_draft_is_what_its_seed_gives_without_the_last_scales(service: Service) -> None:
    answer = await service.generate(seed=5, draft=2)
    body = answer.json()
    assert body["parameters"] == MODEL.sampling.model_dump() | {"draft": 2}
    picture = opened(base64.b64decode(body["data"][0]["b64_json"]))
    assert picture.tobytes() == paint(5, 8).data
    assert len(service.engine.steps) == 8


async def test_four_concurrent_requests_step_together() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with (
        serve_fake(make_engine=lambda: engine) as service,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(lambda: service.generate(seed=99))  # while it steps, the others come in
        await until(lambda: bool(engine.steps))
        for seed in range(4):
            tasks.start_soon(lambda seed: service.generate(seed=seed), seed)
        await until(lambda: service.client.outstanding == 5)
        engine.gate.set()
    steps = [sorted(step.seeds) for step in engine.steps]
    assert steps == [[99]] * len(PATCH_NUMS) + [[0, 1, 2, 3]] * len(PATCH_NUMS)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/png", "PNG"),
        ("image/webp", "WEBP"),
        ("image/jpeg", "JPEG"),
        ("image/*", "PNG"),
        ("image/avif,image/webp,image/*,*/*;q=0.8", "WEBP"),
        ("application/json;q=0.1, image/jpeg", "JPEG"),
    ],
)
async def test_accept_gives_the_bytes_of_one_image(
    service: Service, accept: str, kind: str
) -> None:
    answer = await service.http.post(
        "/generate", json={"prompt": "a frog", "seed": 300}, headers={"accept": accept}
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"image/{kind.lower()}"
    assert answer.headers["x-seed"] == "300"
    image = opened(answer.content)
    assert image.format == kind
    assert image.size == (8, 8)


async def test_times_and_ids_are_in_the_headers(service: Service) -> None:
    answer = await service.http.post(
        "/generate", json={"prompt": "a frog"}, headers={"x-request-id": "mine-1"}
    )
    assert answer.headers["x-request-id"] == "mine-1"
    queue, inference, total = (
        float(answer.headers[f"x-{n}-time"]) for n in ("queue", "inference", "total")
    )
    assert 0 <= queue <= total
    assert 0 < inference <= total
    made = (await service.generate()).headers["x-request-id"]
    assert made != (await service.generate()).headers["x-request-id"]
    bad = await service.http.get("/livez", headers={"x-request-id": "no spaces, please"})
    assert " " not in bad.headers["x-request-id"]


async def test_a_png_says_what_it_is(service: Service) -> None:
    prompt = "a 🐸 next to تفاحة"
    answer = await service.http.post(
        "/generate", json={"prompt": prompt, "seed": 1}, headers={"accept": "image/png"}
    )
    written = generation_of(answer.content)
    assert (written["prompt"], written["seed"], written["model"]) == (prompt, 1, "star-fake")
    assert written["parameters"] == MODEL.sampling.model_dump()


@pytest.mark.parametrize(
    "prompt",
    [
        "🍎🍏",
        "تفاحة حمراء",
        "תפוח אדום",
        "e\u0301clair",
        "日本の桜",
        'a "quoted" \\ one',
        "a\nb\tc",
        "\x00",
    ],
)
async def test_prompts_of_every_script_work(service: Service, prompt: str) -> None:
    answer = await service.http.post(
        "/generate", json={"prompt": prompt}, headers={"accept": "image/png"}
    )
    assert answer.status_code == 200
    assert service.engine.encoded[-1] == prompt.strip()


async def test_a_seed_is_made_up_and_reported(service: Service) -> None:
    seeds = {(await service.generate()).json()["data"][0]["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**32 for seed in seeds)


async def test_seeds_wrap_at_the_end(service: Service) -> None:
    body = (await service.generate(seed=2**32 - 1, n=2)).json()
    assert [d["seed"] for d in body["data"]] == [2**32 - 1, 0]


async def test_what_was_cut_from_a_prompt_is_said(service: Service) -> None:
    prompt = "word " * 40 + "and the rest"
    assert "and the rest" in (await service.generate(prompt=prompt)).json()["warnings"][0]
    answer = await service.http.post(
        "/generate", json={"prompt": prompt}, headers={"accept": "image/png"}
    )
    assert "and the rest" in json.loads(answer.headers["x-warnings"])[0]


async def test_quality_and_format_reach_the_file(service: Service) -> None:
    tables = []
    for quality in (10, 95):
        body = (await service.generate(format="jpeg", quality=quality, seed=1)).json()
        assert body["format"] == "jpeg"
        image = opened(base64.b64decode(body["data"][0]["b64_json"]))
        assert isinstance(image, JpegImageFile)
        tables.append(sum(image.quantization[0]))
    assert tables[0] > tables[1]


async def test_a_full_queue_is_429_with_an_honest_time_to_wait() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with serve_fake(make_engine=lambda: engine, queue_capacity=1) as service:
        waiting = asyncio.create_task(service.generate(n=9))
        await until(lambda: service.client.outstanding == 9)
        answer = await service.generate()
        engine.gate.set()
        assert (await waiting).status_code == 200
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "queue_full"
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert "x-should-retry" not in answer.headers


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [("explode", 500, "internal_error"), ("oom", 503, "out_of_memory")],
)
async def test_a_failing_engine_is_an_envelope(
    service: Service, prompt: str, status: int, code: str
) -> None:
    answer = await service.generate(prompt=prompt)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert "Traceback" not in answer.text
    assert (await service.generate()).status_code == 200


async def test_a_deadline_is_504() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with serve_fake(make_engine=lambda: engine) as service:
        answer = await service.generate(timeout_s=0.05)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"
    assert answer.headers["x-should-retry"] == "false"


async def test_a_client_that_leaves_frees_its_slots() -> None:
    """Through ASGI itself: the transport of httpx cannot hang up."""
    engine = FakeEngine()
    engine.gate.clear()
    async with serve_fake(make_engine=lambda: engine) as service:
        hung_up = asyncio.Event()
        sent: list[str] = []
        requests = [
            {"type": "http.request", "body": b'{"prompt": "a frog", "n": 3}', "more_body": False}
        ]

        async def receive() -> dict[str, object]:
            if requests:
                return requests.pop()
            await hung_up.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            sent.append(str(message.get("status")))

        task = asyncio.create_task(service.app(post_generate(), receive, send))  # type: ignore[arg-type]
        await until(lambda: bool(engine.steps))
        hung_up.set()
        await task
        assert service.client.outstanding == 0
        engine.gate.set()
        await until(lambda: engine.free_slots == 8)
        assert engine.steps == [Step(0, engine.steps[0].seeds)]
        value = service.models.metrics.registry.get_sample_value(
            "star_requests_total", {"endpoint": "/generate", "outcome": "cancelled"}
        )
        assert value == 1


@pytest.mark.parametrize("log_prompts", [False, True])
async def test_one_line_is_logged_and_the_prompt_only_when_asked_for(log_prompts: bool) -> None:
    with structlog.testing.capture_logs() as lines:
        async with serve_fake(log_prompts=log_prompts) as service:
            answer = await service.generate(prompt="a secret frog", seed=3, n=2)
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["request_id"] == answer.headers["x-request-id"]
    assert (line["status"], line["outcome"], line["n"], line["seed"]) == (200, "ok", 2, 3)
    assert line["queue_s"] + line["inference_s"] <= line["duration_s"] + 0.001
    assert ("a secret frog" in str(lines)) == log_prompts


@pytest.mark.parametrize(
    ("path", "level"),
    [
        ("/", "info"),
        ("/v1/models", "info"),
        ("/nothing", "info"),
        ("/static/app.js", "debug"),
        ("/static/nothing", "debug"),
        ("/docs/parts/swagger-ui.css", "debug"),
        ("/livez", "debug"),
        ("/metrics", "debug"),
    ],
)
async def test_what_is_asked_for_all_the_time_is_logged_at_debug(path: str, level: str) -> None:
    with structlog.testing.capture_logs() as lines:
        async with serve_fake() as service:
            await service.http.get(path)
    assert [line["log_level"] for line in lines if line["event"] == "request"] == [level]


async def test_the_documentation_describes_every_answer(service: Service) -> None:
    spec = (await service.http.get("/openapi.json")).json()
    operation = spec["paths"]["/generate"]["post"]
    assert set(operation["responses"]["200"]["content"]) == {
        "application/json",
        "image/png",
        "image/webp",
        "image/jpeg",
        "text/event-stream",
    }
    assert set(operation["responses"]) == {
        "200", "400", "403", "404", "406", "408", "413", "415", "429", "431", "500", "503", "504"
    }  # fmt: skip
    assert "HTTPValidationError" not in json.dumps(spec)
    assert spec["components"]["schemas"]["GenerateRequest"]["examples"]


async def test_a_retry_after_the_engine_died_is_served() -> None:
    async with serve_fake() as service:
        first = await service.generate(prompt="fatal")
        assert first.status_code == 500
        await until(lambda: len(service.engines) == 2 and service.client.phase == "ready")
        assert (await service.generate()).status_code == 200
