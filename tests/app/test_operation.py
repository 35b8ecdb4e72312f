"""Probes, metrics and the list of models."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest
import structlog

from tests.server.fakes import held_engine, make_job
from tests.server.service import Service, post_generate, serve_fake, until

pytestmark = pytest.mark.anyio


async def test_probes_of_a_server_that_is_ready(service: Service) -> None:
    for path in ("/livez", "/readyz", "/health", "/startupz"):
        assert (await service.http.get(path)).status_code == 200, path
    body = (await service.http.get("/startupz")).json()
    assert body["phase"] == "ready"
    assert body["started"] is True


async def test_probes_while_the_model_is_loaded() -> None:
    async with serve_fake(loaded=threading.Event(), wait=False) as service:
        assert (await service.http.get("/livez")).status_code == 200
        for path in ("/readyz", "/v1/models"):
            answer = await service.http.get(path)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "model_loading"
            assert int(answer.headers["retry-after"]) >= 1
        startup = await service.http.get("/startupz")
        assert startup.status_code == 503
        assert startup.json()["phase"] in ("starting", "loading")


async def test_probes_while_draining(service: Service) -> None:
    service.client.begin_drain()
    assert (await service.http.get("/livez")).status_code == 200
    answer = await service.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "draining"
    assert (await service.generate()).json()["error"]["code"] == "draining"
    assert (await service.http.get("/startupz")).json()["phase"] == "draining"


async def test_probes_without_an_engine() -> None:
    async with serve_fake(restart_backoff_s=60) as service:
        service.worker().kill()
        await until(lambda: service.client.phase == "restarting")
        assert (await service.http.get("/livez")).status_code == 200
        answer = await service.http.get("/readyz")
        assert answer.json()["error"]["code"] == "engine_dead"
        assert (await service.http.get("/startupz")).status_code == 200
        assert 'star_engine_up{worker="0"} 0.0' in (await service.http.get("/metrics")).text


async def test_requests_that_no_worker_is_left_for_count_as_errors() -> None:
    """Other refusals do not: an outage is to be seen in the ratio of errors, a limit or the load is not."""
    async with serve_fake(restart_backoff_s=60) as service:
        service.worker().kill()
        await until(lambda: service.client.phase == "restarting")
        assert (await service.generate()).json()["error"]["code"] == "engine_dead"
        service.client.begin_drain()
        assert (await service.generate()).json()["error"]["code"] == "draining"
        metrics = (await service.http.get("/metrics")).text
    for outcome in ("error", "rejected"):
        line = f'star_requests_total{{endpoint="/generate",outcome="{outcome}"}} 1.0'
        assert line in metrics
    for reason in ("engine_dead", "draining"):
        assert f'star_rejections_total{{reason="{reason}"}} 1.0' in metrics


async def test_each_worker_is_shown_with_its_phase_and_its_last_end() -> None:
    async with serve_fake(workers=2, restart_backoff_s=60) as service:
        await until(lambda: service.client.workers.slots == 16)
        body = (await service.http.get("/startupz")).json()
        assert [worker["worker"] for worker in body["workers"]] == [0, 1]
        for worker in body["workers"]:
            assert (worker["phase"], worker["restarts"]) == ("ready", 0)
            assert "last_end" not in worker
        with structlog.testing.capture_logs() as lines:
            service.worker(1).kill()
            await until(lambda: service.client.workers.slots == 8)
        answer = await service.http.get("/startupz")
        page = series((await service.http.get("/metrics")).text)
    first, second = answer.json()["workers"]
    assert answer.json()["phase"] == "ready"
    assert (first["phase"], first["restarts"]) == ("ready", 0)
    assert (second["phase"], second["restarts"]) == ("restarting", 1)
    assert second["last_end"]["cause"] == "killed"
    assert second["last_end"]["reason"] == "the worker ended with SIGKILL"
    assert second["last_end"]["seconds_ago"] >= 0
    (line,) = [line for line in lines if line["event"] == "worker exited"]
    assert (line["worker"], line["cause"], line["phase"]) == (1, "killed", "ready")
    assert page['star_engine_phase{phase="ready",worker="0"}'] == 1
    assert page['star_engine_phase{phase="ready",worker="1"}'] == 0
    assert page['star_engine_phase{phase="restarting",worker="1"}'] == 1
    assert page['star_engine_exits_total{cause="killed",worker="1"}'] == 1
    assert page['star_engine_exits_total{cause="killed",worker="0"}'] == 0


async def test_a_worker_that_loads_again_says_so_while_the_service_restarts() -> None:
    loaded = threading.Event()
    loaded.set()
    async with serve_fake(loaded=loaded, restart_backoff_s=0.001) as service:
        loaded.clear()
        service.worker().kill()
        await until(lambda: service.client.workers.supervisors[0].phase == "loading")
        body = (await service.http.get("/startupz")).json()
        assert body["phase"] == "restarting"
        assert body["workers"][0]["phase"] == "loading"
        assert body["phase_seconds"] >= body["workers"][0]["phase_seconds"]
        loaded.set()
        await until(lambda: service.client.phase == "ready")


async def test_why_a_model_cannot_be_loaded_is_shown_with_its_worker() -> None:
    async with serve_fake(load_errors=["no such directory"], wait=False) as service:
        await until(lambda: service.client.phase == "failed")
        body = (await service.http.get("/startupz")).json()
    assert body["error"] == "no such directory"
    (worker,) = body["workers"]
    assert worker["phase"] == "failed"
    assert worker["last_end"]["cause"] == "load_failed"
    assert worker["last_end"]["reason"] == "no such directory"


async def test_liveness_ends_with_the_supervisor(service: Service) -> None:
    for task in service.client.workers.supervisors[0]._tasks:
        task.cancel()
    await anyio.sleep(0.01)
    answer = await service.http.get("/livez")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "supervisor_dead"


async def test_the_list_of_models_is_openais(service: Service) -> None:
    body = (await service.http.get("/v1/models")).json()
    assert body["object"] == "list"
    model, *other_names = body["data"]
    assert {other["alias_of"] for other in other_names} == {"star-fake"}
    assert model["id"] == "star-fake"
    assert model["object"] == "model"
    assert isinstance(model["created"], int)
    assert model["scales"][-1] == 32
    assert model["size"] == "512x512"


async def test_metrics_count_what_happened(service: Service) -> None:
    await service.generate(n=2, stream=True, partial_images=1)
    await service.generate()
    await service.generate(n=0)
    await service.http.get("/some/../unknown/path/of/a/client")
    answer = await service.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")

    def value(name: str, **labels: str) -> float | None:
        return service.models.metrics.registry.get_sample_value(name, labels)

    assert value("star_requests_total", endpoint="/generate", outcome="ok") == 2
    assert value("star_requests_total", endpoint="/generate", outcome="invalid") == 1
    assert value("star_requests_total", endpoint="other", outcome="invalid") == 1
    assert value("star_images_total", worker="0") == 3
    assert value("star_batch_size_sum") == 30
    assert value("star_scale_step_duration_seconds_count", scale="9") == 2
    assert value("star_text_encode_duration_seconds_count") == 1
    assert value("star_image_encode_duration_seconds_count") == 5
    assert value("star_time_to_first_preview_seconds_count") == 1
    assert value("star_queue_duration_seconds_count") == 2
    assert value("star_request_duration_seconds_count", endpoint="/generate") == 3
    assert value("star_engine_up", worker="0") == 1
    assert value("star_slots_total", worker="0") == 8
    assert value("star_requests_running") == value("star_requests_waiting") == 0
    assert value("star_model_info", model="star-fake", device="cpu", dtype="float32", mode="deterministic",
                 image_size="512") == 1  # fmt: skip


def series(page: str) -> dict[str, float]:
    """The samples of a page by name and labels."""
    lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def test_what_has_not_happened_yet_is_shown_as_0(service: Service) -> None:
    """``rate()`` and ``increase()`` miss the first event of a series that begins with it."""
    before = series((await service.http.get("/metrics")).text)
    for name in (
        *(
            f'star_requests_total{{endpoint="/generate",outcome="{outcome}"}}'
            for outcome in ("ok", "invalid", "rejected", "cancelled", "deadline", "oom", "error")
        ),
        'star_requests_total{endpoint="other",outcome="invalid"}',
        'star_rejections_total{reason="queue_full"}',
        'star_rejections_total{reason="rate_limit_exceeded"}',
        'star_rejections_total{reason="engine_dead"}',
        'star_cancellations_total{stage="queued"}',
        'star_cancellations_total{stage="running"}',
        'star_images_total{worker="0"}',
        'star_engine_restarts_total{worker="0"}',
        'star_engine_exits_total{cause="silent",worker="0"}',
        'star_request_duration_seconds_count{endpoint="/v1/images/generations"}',
        'star_scale_step_duration_seconds_count{scale="9"}',
    ):
        assert before.pop(name) == 0, name

    # Nothing that a server can be asked makes a series that was not there.
    for method, path in [
        *(("GET", path) for path in ("/", "/docs", "/openapi.json", "/v1/models", "/livez", "/readyz", "/no")),
        *(("GET", path) for path in ("/static/app.js", "/static/no", "/v1/images/files/no.png", "/v1/models/a/b")),
        *(("POST", path) for path in ("/", "/generate", "/v1/images/generations", "/v1/images/edits")),
        ("HEAD", "/"), ("PUT", "/"), ("DELETE", "/generate"), ("OPTIONS", "/v1/models"),
    ]:  # fmt: skip
        await service.http.request(
            method, path, json={"prompt": "a red apple"} if method == "POST" else None
        )
    await service.generate(n=2, stream=True, partial_images=1)
    await service.generate(prompt="explode")
    service.client.begin_drain()
    await service.generate()
    after = series((await service.http.get("/metrics")).text)
    assert after['star_requests_total{endpoint="/generate",outcome="error"}'] == 1
    assert after.keys() == series((await service.http.get("/metrics")).text).keys()
    assert before.keys() <= after.keys()
    assert len(after) == len(before) + 18


async def test_the_page_and_the_images_that_are_asked_for_at_its_path_are_told_apart(
    service: Service,
) -> None:
    await service.http.get("/")
    await service.http.head("/")
    await service.http.post("/", json={"inputs": "a red apple"})
    await service.http.post("/", json={})
    page = series((await service.http.get("/metrics")).text)
    assert page['star_requests_total{endpoint="/",outcome="ok"}'] == 2
    assert page['star_requests_total{endpoint="/",outcome="invalid"}'] == 0
    assert page['star_requests_total{endpoint="POST /",outcome="ok"}'] == 1
    assert page['star_requests_total{endpoint="POST /",outcome="invalid"}'] == 1
    assert page['star_request_duration_seconds_count{endpoint="POST /"}'] == 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"prompt": "a"}),
        ("/v1/images/generations", {"prompt": "a"}),
        ("/", {"inputs": "a"}),
    ],
)
async def test_a_refusal_while_the_model_is_loaded_is_counted(
    path: str, body: dict[str, str]
) -> None:
    async with serve_fake(loaded=threading.Event(), wait=False) as service:
        assert (await service.http.post(path, json=body)).status_code == 503
        await service.http.get("/readyz")  # a probe is no request for images
        page = series((await service.http.get("/metrics")).text)
    assert page['star_rejections_total{reason="model_loading"}'] == 1


async def test_gauges_follow_the_requests() -> None:
    async with (
        serve_fake(make_engine=lambda: held_engine(slots=1)) as service,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(3):
            tasks.start_soon(service.generate)
        read = service.models.metrics.registry.get_sample_value
        await until(
            lambda: read("star_requests_running") == 1 and read("star_requests_waiting") == 2
        )
        service.engine.gate.set()


async def test_metrics_can_be_rendered_in_another_thread_while_requests_come_and_go(
    service: Service,
) -> None:
    """Under Ray they are. Requests that come and go between any two that are counted make the worst case."""
    tickets = service.client._tickets
    counted = 0

    class Restless:
        job = make_job("guest")

        @property
        def started_at(self) -> float:
            nonlocal counted
            counted += 1
            tickets.pop(f"guest {counted}", None)
            tickets[f"guest {counted + 3}"] = Restless()  # type: ignore[assignment]
            return 0.0

    for i in range(3):
        tickets[f"guest {i + 1}"] = Restless()  # type: ignore[assignment]
    page = series((await asyncio.to_thread(service.models.metrics.render)).decode())
    tickets.clear()
    assert page["star_requests_running"] == 3
    assert counted >= 3


async def test_a_client_that_leaves_while_it_sends_has_not_sent_anything_invalid(
    service: Service,
) -> None:
    messages: list[dict[str, object]] = [
        {"type": "http.request", "body": b'{"prom', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    async def send(message: dict[str, object]) -> None:
        pass

    await service.app(post_generate(), receive, send)  # type: ignore[arg-type]
    outcome = {"endpoint": "/generate", "outcome": "cancelled"}
    assert service.models.metrics.registry.get_sample_value("star_requests_total", outcome) == 1
