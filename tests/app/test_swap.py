"""A model that takes over from another while requests come: nothing is lost, and one that fails changes nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from server.app import create_admin_app
from star_model.checkpoints.hub import check_model
from tests.server.fakes import FakeEngine
from tests.server.service import Service, serve_fake, until

pytestmark = pytest.mark.anyio

KEY = "an-administrators-key"


@dataclass
class Stage:
    """A service, and its port for administrators."""

    service: Service
    admin: httpx.AsyncClient

    async def swap(self, model: str, **body: Any) -> httpx.Response:
        return await self.admin.post("/admin/model", json={"model": model, **body})

    async def places(self) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = (await self.admin.get("/admin/model")).json()["models"]
        return models


@asynccontextmanager
async def stage(**given: Any) -> AsyncIterator[Stage]:
    async with serve_fake(**given) as service:
        app = create_admin_app(service.models, service.app.state.reloading, KEY)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://admin", headers=headers, timeout=20
        ) as admin:
            yield Stage(service, admin)


@dataclass
class Swapping:
    """A stage on which the model ``next`` loads, to take over.

    Attributes:
        on: the stage.
        loaded: ends the load when it is set.
        answer: of the request for the swap.
    """

    on: Stage
    loaded: threading.Event
    answer: asyncio.Future[httpx.Response]


@asynccontextmanager
async def swapping() -> AsyncIterator[Swapping]:
    loaded = threading.Event()
    loaded.set()
    async with stage(loaded=loaded) as on:
        loaded.clear()
        answer = asyncio.ensure_future(on.swap("next"))
        await until(lambda: on.service.models.first.candidate is not None)
        yield Swapping(on, loaded, answer)


async def painter(service: Service, **body: Any) -> str:
    answer = await service.generate(**body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"])


async def test_the_new_model_takes_over() -> None:
    async with stage() as on:
        assert await painter(on.service) == "star-fake"
        answer = await on.swap("next")
        assert answer.status_code == 200, answer.text
        assert answer.json()["name"] == "next"
        assert answer.json()["swap"]["phase"] == "done"
        assert await painter(on.service) == "next"
        assert (await on.service.http.get("/readyz")).json() == {"status": "ok", "model": "next"}
        await until(lambda: not on.service.models.first.retired)
        assert [place["model"] for place in await on.places()] == ["next"]
        metrics = (await on.service.http.get("/metrics")).text
        assert 'star_model_swaps_total{outcome="done"} 1.0' in metrics
        assert 'model="next"' in metrics
        assert 'model="star-fake"' not in metrics
        assert 'star_engine_up{worker="0"} 1.0' in metrics
        assert 'star_images_total{worker="0"} 2.0' in metrics


async def test_the_log_tells_the_workers_of_the_new_model_from_those_of_the_old() -> None:
    with structlog.testing.capture_logs() as lines:
        async with stage() as on:
            await on.swap("next")
    ready = [line for line in lines if line["event"] == "ready"]
    assert [(line["worker"], line["model"], line.get("swap")) for line in ready] == [
        (0, "star-fake", None),
        (0, "next", 1),
    ]
    assert next(line for line in lines if line["event"] == "swap begins")["swap"] == 1


async def test_a_name_that_no_model_has_starts_no_worker() -> None:
    async with stage(check_model=check_model) as on:
        answer = await on.swap("star-mni")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "model_not_loaded")
        assert "did you mean star-mini? Known models are" in answer.json()["error"]["message"]
        assert len(on.service.engines) == 1
        assert await painter(on.service) == "star-fake"
        assert (await on.places())[0]["swap"]["phase"] == "failed"


@pytest.mark.parametrize("path", ["/docs", "/", "/admin/modl"])
async def test_a_path_that_is_not_there_is_answered_with_those_that_are(path: str) -> None:
    async with stage() as on:
        message = (await on.admin.get(path)).json()["error"]["message"]
    assert message.startswith(f"There is nothing at GET {path}")
    assert message.endswith(" This port has /admin/model, /admin/reload.")


async def test_what_is_under_way_ends_on_the_old_model() -> None:
    engines: list[FakeEngine] = []

    def make() -> FakeEngine:
        engines.append(FakeEngine(slots=1))
        if len(engines) == 1:
            engines[0].gate.clear()
        return engines[-1]

    async with stage(make_engine=make) as on:
        served = on.service.models.first
        asked = [asyncio.ensure_future(painter(on.service)) for _ in range(3)]
        await until(lambda: served.engine.outstanding == 3)
        assert (await on.swap("next")).json()["under_way"] == 3
        assert await painter(on.service) == "next", "new requests do not wait for the old ones"
        assert not any(task.done() for task in asked)
        metrics = (await on.service.http.get("/metrics")).text
        assert "star_requests_running 1.0" in metrics
        assert "star_requests_waiting 2.0" in metrics
        engines[0].gate.set()
        assert await asyncio.gather(*asked) == ["star-fake"] * 3
        await until(lambda: not served.retired)


async def test_the_old_model_serves_while_the_new_one_loads() -> None:
    async with swapping() as swap:
        on = swap.on
        assert await painter(on.service) == "star-fake"
        (place,) = await on.places()
        assert (place["model"], place["phase"]) == ("star-mini", "ready")
        assert (place["swap"]["model"], place["swap"]["phase"]) == ("next", "loading")
        assert 'star_engine_up{worker="0"} 1.0' in (await on.service.http.get("/metrics")).text
        second = await on.swap("other")
        assert (second.status_code, second.json()["error"]["code"]) == (409, "swap_under_way")
        swap.loaded.set()
        assert (await swap.answer).status_code == 200
        assert await painter(on.service) == "next"


async def test_a_caller_that_leaves_does_not_stop_the_swap() -> None:
    async with swapping() as swap:
        swap.answer.cancel()
        await asyncio.gather(swap.answer, return_exceptions=True)
        swap.loaded.set()
        await until(lambda: swap.on.service.models.first.name == "next")


async def test_a_swap_is_given_up() -> None:
    async with swapping() as swap:
        on = swap.on
        assert (await on.admin.delete("/admin/model")).status_code == 200
        answer = await swap.answer
        assert answer.status_code == 422
        assert answer.json()["error"]["message"] == "The swap was given up."
        assert (await on.admin.delete("/admin/model")).status_code == 404, "there is none"
        swap.loaded.set()
        assert await painter(on.service) == "star-fake"
        assert (await on.swap("next")).status_code == 200


async def test_a_model_that_cannot_be_loaded_leaves_the_old_one_serving() -> None:
    async with stage(load_errors=[None, "next holds no model."]) as on:
        answer = await on.swap("next")
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "model_not_loaded"
        assert answer.json()["error"]["message"] == "next holds no model."
        assert await painter(on.service) == "star-fake"
        (place,) = await on.places()
        assert place["swap"]["reason"] == "next holds no model."
        assert place["swap"]["phase"] == "failed"
        metrics = (await on.service.http.get("/metrics")).text
        assert 'star_model_swaps_total{outcome="failed"} 1.0' in metrics
        assert 'star_engine_up{worker="0"} 1.0' in metrics
        assert (await on.swap("next")).status_code == 200, "it may be tried again"


async def test_a_request_that_is_being_checked_keeps_its_model() -> None:
    """It has been checked against the old model, so it must be painted there."""
    async with stage() as on:
        old = on.service.client
        with old.held():
            assert (await on.swap("next")).status_code == 200
            served = on.service.models.first
            await asyncio.sleep(0.3)
            assert served.retired == [old]
            assert old.phase == "ready"
        await until(lambda: not served.retired)


async def test_a_server_that_stops_gives_up_the_swap() -> None:
    async with swapping() as swap:
        swap.on.service.models.begin_drain()
        answer = await swap.answer
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")


async def test_of_several_models_one_is_exchanged() -> None:
    async with stage(model=["one", "two"]) as on:
        unnamed = await on.swap("three")
        assert (unnamed.status_code, unnamed.json()["error"]["param"]) == (400, "replaces")
        assert (await on.swap("three", replaces="four")).status_code == 404
        twin = await on.swap("one", replaces="two")
        assert twin.status_code == 422
        assert "which another model has here" in twin.json()["error"]["message"]
        assert (await on.swap("three", replaces="two")).status_code == 200
        assert await painter(on.service) == "one"
        assert await painter(on.service, model="three") == "three"
        assert (await on.service.generate(model="two")).status_code == 404
        metrics = (await on.service.http.get("/metrics")).text
        assert 'star_images_total{model="two",worker="0"} 1.0' in metrics, "by its place"


async def test_a_model_that_failed_at_the_start_can_be_replaced() -> None:
    async with stage(model=["one", "two"], load_errors=[None, "Damaged."]) as on:
        assert (await on.swap("three", replaces="two")).status_code == 200
        assert await painter(on.service, model="three") == "three"
        assert (await on.service.http.get("/readyz")).json()["models"] == {
            "one": "ready",
            "three": "ready",
        }


# ---- the port itself ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("header", [{}, {"authorization": "Bearer another-key-of-someone"}])
async def test_nothing_is_done_without_the_key(header: dict[str, str]) -> None:
    async with stage() as on:
        on.admin.headers.pop("authorization")
        for method, path in (
            ("GET", "/admin/model"),
            ("POST", "/admin/model"),
            ("POST", "/admin/reload"),
            ("GET", "/nothing"),
        ):
            answer = await on.admin.request(method, path, json={"model": "next"}, headers=header)
            assert answer.status_code == 401, path
        assert on.service.models.first.swap is None


async def test_callers_do_not_reach_it() -> None:
    async with serve_fake() as service:
        for path in ("/admin/model", "/admin/reload"):
            assert (await service.http.post(path, json={"model": "next"})).status_code == 404


async def test_settings_are_read_again(tmp_path: Path) -> None:
    file = tmp_path / "star.yaml"
    file.write_text("queue_capacity: 7\n")
    async with stage(config=file) as on:
        file.write_text("queue_capacity: 8\nslots: 2\n")
        answer = await on.admin.post("/admin/reload")
        assert answer.json() == {"changed": ["queue_capacity"], "need_restart": ["slots"]}
        file.write_text("prot: 8\n")
        answer = await on.admin.post("/admin/reload")
        assert answer.status_code == 400
        assert "did you mean port?" in answer.json()["error"]["message"]


async def test_a_wrong_body_is_explained() -> None:
    async with stage() as on:
        answer = await on.admin.post("/admin/model", json={"modle": "next"})
        assert answer.status_code == 400
        assert "model" in answer.json()["error"]["message"]
