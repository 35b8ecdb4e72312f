"""Batches over the fake engine: what is served, what is refused, what a restart keeps, and whose they are."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog
from PIL import Image

from server.safety.check import Refusal
from tests.server.batch_files import URL, jsonl, line, results
from tests.server.batch_service import (
    authorized,
    content,
    create,
    ended,
    got,
    made,
    serve,
    texts_in,
    upload,
)
from tests.server.fakes import FakeEngine, Step, held_engine, paint
from tests.server.pictures import file_of, opened
from tests.server.service import Service, serve_fake, until

pytestmark = pytest.mark.anyio
KEYS = ["sk-first-0123456789", "sk-second-0123456789"]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with serve(tmp_path / "store") as running:
        yield running


# ---- served ------------------------------------------------------------------------------------------------
async def test_a_batch_gets_what_requests_over_http_get(service: Service) -> None:
    lines = [line(f"image {i}", n=i, seed=10 * i) for i in (1, 2, 3)]
    batch = await ended(service, await made(service, *lines, metadata={"for": "a test"}))
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert batch["metadata"] == {"for": "a test"}
    assert batch["error_file_id"] is None
    assert batch["errors"] is None
    times = [batch[f"{name}_at"] for name in ("created", "in_progress", "finalizing", "completed")]
    assert times == sorted(times)
    assert batch["expires_at"] == batch["created_at"] + 24 * 3600

    found = await content(service, batch["output_file_id"])
    assert [each["custom_id"] for each in found] == ["image 1", "image 2", "image 3"]
    for each, asked in zip(found, lines, strict=True):
        direct = (await service.http.post(URL, json=asked["body"])).json()
        answer = each["response"]["body"]
        assert each["error"] is None
        assert each["response"]["status_code"] == 200
        assert answer["data"] == direct["data"]
        assert answer.keys() == direct.keys()
    (image,) = found[0]["response"]["body"]["data"]
    assert opened(image["b64_json"]).tobytes() == paint(10, 10).data


async def test_a_request_that_is_refused_has_its_result_in_the_file_of_errors(
    service: Service,
) -> None:
    batch = await ended(
        service,
        await made(
            service,
            line("good"),
            line("too many", n=11),
            line("stream", stream=True),
            line("url", response_format="url"),
            line("broken", prompt="unreadable"),
            line("dall-e", model="dall-e-3"),
        ),
    )
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 6, "completed": 2, "failed": 4}
    done = await content(service, batch["output_file_id"])
    assert [each["custom_id"] for each in done] == ["good", "dall-e"]
    failed = await content(service, batch["error_file_id"])
    answers = {each["custom_id"]: each["response"] for each in failed}
    assert {name: each["status_code"] for name, each in answers.items()} == {
        "too many": 400,
        "stream": 400,
        "url": 400,
        "broken": 500,
    }
    direct = await service.http.post(URL, json={"prompt": "a red apple", "n": 11})
    assert answers["too many"]["body"] == direct.json()
    assert answers["stream"]["body"]["error"]["param"] == "stream"
    assert answers["url"]["body"]["error"]["param"] == "response_format"
    ids = [each["id"] for each in done + failed]
    assert len(set(ids)) == 6
    assert all(name.startswith("batch_req_") for name in ids)


async def test_edits(service: Service) -> None:
    file = file_of(Image.new("RGB", (512, 512), "grey"))
    picture = f"data:image/png;base64,{base64.b64encode(file).decode()}"
    url = "/v1/images/edits"
    edit = line("edit", url, images=[{"image_url": picture}], keep_scales=2, seed=3)
    batch = await ended(service, await made(service, edit, endpoint=url))
    (result,) = await content(service, batch["output_file_id"])
    assert result["response"]["body"]["parameters"]["keep_scales"] == 2


async def test_an_engine_that_dies_is_waited_for(service: Service) -> None:
    service.engine.gate.clear()
    batch_id = await made(service, line("1"), line("2"))
    await until(lambda: len(service.engine.steps) > 0)
    service.worker().kill()
    batch = await ended(service, batch_id)
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


async def test_the_safety_hook_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("hook_of_batches")
    module.check = lambda asked: Refusal(("gore",)) if "gore" in asked.prompt else None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    async with serve(tmp_path, safety_hook="hook_of_batches:check") as service:
        batch_id = await made(service, line("good"), line("bad", prompt="gore"))
        batch = await ended(service, batch_id)
        (failed,) = await content(service, batch["error_file_id"])
        assert failed["custom_id"] == "bad"
        assert failed["response"]["status_code"] == 400
        assert failed["response"]["body"]["error"]["code"] == "moderation_blocked"
        assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}


async def test_it_is_seen_in_the_metrics_and_in_the_log(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    batch_id = await made(service, line("1", seed=7), line("2", n=11))
    registry, labels = service.models.metrics.registry, {"status": "completed"}
    await until(lambda: registry.get_sample_value("star_batches_total", labels) == 1)
    page = (await service.http.get("/metrics")).text
    assert 'star_batches_total{status="completed"} 1.0' in page
    assert 'star_batch_requests_total{result="done"} 1.0' in page
    assert 'star_batch_requests_total{result="failed"} 1.0' in page
    lines = [text for text in capsys.readouterr().out.splitlines() if "batch request" in text]
    good = next(text for text in lines if f"{batch_id}-1" in text)
    assert "outcome=ok" in good
    assert "seed=7" in good
    assert "inference_s=" in good


# ---- batches that are refused ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"completion_window": "tomorrow"}, 400, "completion_window"),
        ({"completion_window": "0h"}, 400, "completion_window"),
        ({"completion_window": "8d"}, 400, "completion_window"),
        ({"endpoint": "/v1/chat/completions"}, 400, "endpoint"),
        ({"input_file_id": "file-1"}, 404, "input_file_id"),
        ({"input_file_id": "../../etc/passwd"}, 404, "input_file_id"),
        ({"metadata": {"x": 1}}, 400, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, 400, "metadata"),
        ({"priority": "high"}, 400, "priority"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 10**9}}, 400, "output_expires_after.seconds"),
    ],
)  # fmt: skip
async def test_a_batch_that_is_refused(
    service: Service, fields: dict[str, Any], status: int, param: str
) -> None:
    file = (await upload(service, jsonl(line("1")))).json()
    answer = await create(service, **{"file_id": file["id"], **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


async def test_a_strict_server_has_no_batches_of_edits(tmp_path: Path) -> None:
    async with serve(tmp_path, compatibility="strict") as service:
        file = (await upload(service, jsonl(line("1", "/v1/images/edits")))).json()
        answer = await create(service, file["id"], endpoint="/v1/images/edits")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "endpoint")


async def test_the_numbers_of_files_and_batches_are_bounded(tmp_path: Path) -> None:
    async with serve(
        tmp_path, make_engine=held_engine, batch_files_per_caller=3, batches_per_caller=2
    ) as service:
        batches = [await made(service, line("1")) for _ in range(2)]
        file = (await upload(service, jsonl(line("1")))).json()
        for refused in (await create(service, file["id"]), await upload(service, b"x")):
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "batch_limit_exceeded"
            assert refused.headers["x-should-retry"] == "false"
        await service.http.post(f"/v1/batches/{batches[0]}/cancel")
        await ended(service, batches[0])
        assert (await create(service, file["id"])).status_code == 200


async def test_without_a_store_the_answer_says_what_to_set() -> None:
    async with serve_fake() as service:
        answers = [
            await service.http.get("/v1/files"),
            await upload(service, b"x"),
            await create(service, "file-1"),
            await service.http.post("/v1/batches/batch_1/cancel"),
        ]
        for answer in answers:
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (404, "batches_off")
            assert "batch_store" in error["message"]


# ---- cancelled, expired, started again ---------------------------------------------------------------------
async def test_a_cancelled_batch_keeps_what_is_done(tmp_path: Path) -> None:
    async with serve(tmp_path, batch_concurrency=1) as service:
        engine = service.engine
        engine.on_step = lambda step: engine.gate.clear() if step == Step(0, (2,)) else None
        batch_id = await made(service, *(line(str(i), seed=i) for i in range(5)))
        await until(lambda: not engine.gate.is_set())
        running = await got(service, f"/v1/batches/{batch_id}")
        assert running["status"] == "in_progress"
        assert running["request_counts"] == {"total": 5, "completed": 2, "failed": 0}
        told = (await service.http.post(f"/v1/batches/{batch_id}/cancel")).json()
        assert told["status"] in ("cancelling", "cancelled")
        batch = await ended(service, batch_id)
        engine.gate.set()  # only now: the image under way would else be done or not
        assert batch["status"] == "cancelled"
        assert batch["cancelling_at"] <= batch["cancelled_at"]
        assert batch["request_counts"] == {"total": 5, "completed": 2, "failed": 3}
        done = await content(service, batch["output_file_id"])
        assert [each["custom_id"] for each in done] == ["0", "1"]
        failed = await content(service, batch["error_file_id"])
        assert [each["custom_id"] for each in failed] == ["2", "3", "4"]
        assert {each["error"]["code"] for each in failed} == {"batch_cancelled"}
        assert all(each["response"] is None for each in failed)
        again = await service.http.post(f"/v1/batches/{batch_id}/cancel")
        assert (again.status_code, again.json()["error"]["param"]) == (400, "batch_id")
        assert (await service.generate()).status_code == 200


async def test_an_expired_batch_keeps_what_is_done(tmp_path: Path) -> None:
    async with serve(tmp_path, batch_concurrency=1) as service:
        engine = service.engine
        engine.on_step = lambda step: engine.gate.clear() if step == Step(0, (1,)) else None
        lines = [line(str(i), seed=i) for i in range(3)]
        batch = await ended(service, await made(service, *lines, completion_window="2s"))
        assert batch["status"] == "expired"
        assert batch["expired_at"] >= batch["expires_at"]
        output = batch["output_file_id"]  # none on a machine that takes two seconds for the first
        done = await content(service, output) if output else []
        failed = await content(service, batch["error_file_id"])
        assert [each["custom_id"] for each in done + failed] == ["0", "1", "2"]
        assert [each["custom_id"] for each in failed[-2:]] == ["1", "2"]
        assert {each["error"]["code"] for each in failed} == {"batch_expired"}
        assert batch["request_counts"] == {
            "total": 3,
            "completed": len(done),
            "failed": len(failed),
        }


async def test_a_batch_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.batches.run._GRACE_SECONDS", 0.01)  # the engine stays held
    monkeypatch.setattr("server.dispatch.supervisor._STOP_SECONDS", 0.1)
    painted: list[int] = []

    def watched() -> FakeEngine:
        engine = FakeEngine()
        engine.on_step = lambda step: painted.extend(step.seeds) if step.scale == 9 else None
        return engine

    async with serve(tmp_path, make_engine=watched, batch_concurrency=1) as service:
        engine, watch = service.engine, service.engine.on_step
        assert watch is not None

        def stop_at_three(step: Any) -> None:
            if step.seeds == (3,):
                engine.gate.clear()
            watch(step)

        engine.on_step = stop_at_three
        batch_id = await made(service, *(line(str(i), seed=i) for i in range(6)))
        await until(lambda: not engine.gate.is_set())
        assert painted == [0, 1, 2]
    async with serve(tmp_path, make_engine=watched) as service:
        batch = await ended(service, batch_id)
        assert batch["request_counts"] == {"total": 6, "completed": 6, "failed": 0}
        found = await content(service, batch["output_file_id"])
        assert [each["custom_id"] for each in found] == list("012345")
    assert sorted(painted) == [0, 1, 2, 3, 4, 5], "each is painted once"


async def test_two_servers_over_one_store_paint_each_request_once(tmp_path: Path) -> None:
    async with serve(tmp_path) as first, serve(tmp_path) as second:
        batches = [await made(s, *(line(str(i)) for i in range(8))) for s in (first, second)]
        for batch_id in batches:
            assert (await ended(first, batch_id)) == (await ended(second, batch_id))
        steps = [step for s in (first, second) for step in s.engine.steps if step.scale == 9]
        assert sum(len(step.seeds) for step in steps) == 16, "each is painted once"


# ---- whose they are ----------------------------------------------------------------------------------------
async def test_files_and_batches_belong_to_their_key(tmp_path: Path) -> None:
    own, other = KEYS
    async with serve(tmp_path, api_keys=KEYS) as service:
        assert (await service.http.get("/v1/files")).status_code == 401
        file_id = (await upload(service, jsonl(line("1")), own)).json()["id"]
        batch_id = (await create(service, file_id, own)).json()["id"]
        output = (await ended(service, batch_id, own))["output_file_id"]
        for path in (
            f"files/{file_id}", f"files/{file_id}/content", f"files/{output}/content", f"batches/{batch_id}",
        ):  # fmt: skip
            assert (
                await service.http.get(f"/v1/{path}", headers=authorized(other))
            ).status_code == 404
            assert (
                await service.http.get(f"/v1/{path}", headers=authorized(own))
            ).status_code == 200
        for path in ("/v1/files", "/v1/batches"):
            assert (await got(service, path, other))["data"] == []
            assert len((await got(service, path, own))["data"]) > 0
        for refused in (
            await create(service, file_id, other),
            await service.http.delete(f"/v1/files/{file_id}", headers=authorized(other)),
            await service.http.post(f"/v1/batches/{batch_id}/cancel", headers=authorized(other)),
        ):
            assert refused.status_code == 404
    async with serve(tmp_path, api_keys=["sk-new-one-0123456789", own]) as service:
        assert len((await got(service, "/v1/batches", own))["data"]) == 1, "whatever its number is"
    assert not [text for text in texts_in(tmp_path) if own in text]


async def test_a_key_that_is_no_longer_valid_ends_its_batches(tmp_path: Path) -> None:
    own, other = KEYS
    async with serve(tmp_path, api_keys=KEYS, make_engine=held_engine) as service:
        file_id = (await upload(service, jsonl(line("1")), own)).json()["id"]
        assert (await create(service, file_id, own)).status_code == 200
    async with serve(tmp_path, api_keys=[other]) as service:
        await until(lambda: bool(texts_in(tmp_path / "results")))
        (text,) = texts_in(tmp_path / "results")
        (result,) = results(text.encode())
        assert result["response"]["status_code"] == 401
        assert not service.engine.steps


async def test_requests_over_http_go_first(tmp_path: Path) -> None:
    """From the first step of one to its last, no request of a batch steps."""
    async with serve(tmp_path, batch_concurrency=4) as service:
        steps = service.engine.steps
        lines = [line(str(i), n=10, seed=1000 * i) for i in range(1, 30)]
        batch_id = await made(service, *lines)
        for seed in (1, 2, 3):
            enough = len(steps) + 5
            await until(lambda enough=enough: len(steps) > enough)  # type: ignore[misc]
            assert (await service.generate(seed=seed)).status_code == 200
            own = [i for i, step in enumerate(steps) if seed in step.seeds]
            assert len(own) == 10
            between = {s for step in steps[own[0] : own[-1] + 1] for s in step.seeds}
            assert between == {seed}
        page = (await service.http.get("/metrics")).text
        assert "star_queue_duration_seconds_count 3.0" in page, "batches are no part of it"
        await service.http.post(f"/v1/batches/{batch_id}/cancel")
        await ended(service, batch_id)


async def test_a_rate_limit_slows_a_batch_down_and_fails_nothing(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        async with serve(tmp_path, images_per_minute=2) as service:
            batch_id = await made(service, *(line(str(i)) for i in range(3)))
            await until(lambda: "rate_limit_exceeded" in [each.get("code") for each in logs])
            assert (await service.generate()).status_code == 200, "its caller keeps the allowance"
            assert (await got(service, f"/v1/batches/{batch_id}"))["status"] == "in_progress"
            await service.http.post(f"/v1/batches/{batch_id}/cancel")
            batch = await ended(service, batch_id)
            assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
            (left,) = await content(service, batch["error_file_id"])
            assert left["error"]["code"] == "batch_cancelled", "it waited, and was not refused"


async def test_a_full_store_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No result is lost while nothing can be written."""
    monkeypatch.setattr("server.batches.run._STORE_PAUSE_SECONDS", 0.02)
    async with serve(tmp_path, make_engine=held_engine) as service:
        batch_id = await made(service, line("1"))
        await until(lambda: len(service.engine.steps) > 0)
        results_at = tmp_path / "results"
        results_at.write_text("a file where a folder should be")
        service.engine.gate.set()
        registry, labels = service.models.metrics.registry, {"operation": "write"}
        await until(
            lambda: bool(registry.get_sample_value("star_batch_store_errors_total", labels))
        )
        results_at.unlink()
        batch = await ended(service, batch_id)
        assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


async def test_the_whole_line_is_json_for_ids_of_any_text(service: Service) -> None:
    names = ['"quotes" \\ and ', "é ü 漢", "\u2028"]
    raw = json.dumps({**line("x"), "custom_id": "\ud800"})
    batch = await ended(service, await made(service, *map(line, names), raw))
    found = await content(service, batch["output_file_id"])
    assert [each["custom_id"] for each in found] == [*names, "\ud800"]
