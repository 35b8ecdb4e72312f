"""Several models in one server: which one paints, what each says of itself, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.settings import Settings
from tests.server.fakes import VOCABULARY, FakeEngine, held_engine
from tests.server.service import Service, serve_fake, until

pytestmark = pytest.mark.anyio

BOTH: dict[str, Any] = {"model": ["one", "two"]}


async def generate(service: Service, **body: Any) -> tuple[int, Any]:
    answer = await service.generate(**body)
    return answer.status_code, answer.json()


def steps(service: Service) -> list[int]:
    """Steps that each engine has made so far."""
    return [len(engine.steps) for engine in service.engines]


async def test_the_request_chooses_and_the_first_is_the_default() -> None:
    async with serve_fake(**BOTH) as service:
        for asked, painter in ((None, "one"), ("one", "one"), ("two", "two")):
            before = steps(service)
            named = {} if asked is None else {"model": asked}
            status, answer = await generate(service, **named)
            assert (status, answer["model"]) == (200, painter)
            grown = [now > then for now, then in zip(steps(service), before, strict=True)]
            assert grown == [painter == "one", painter == "two"]


@pytest.mark.parametrize(
    ("named", "painter"),
    [(None, "one"), ("two", "two"), ("gpt-image-1", "one"), ("dall-e-3", "one")],
)
async def test_openai_routes_choose_and_aliases_are_the_first(
    named: str | None, painter: str
) -> None:
    async with serve_fake(**BOTH) as service:
        body = {"prompt": "a red apple", **({"model": named} if named else {})}
        answer = await service.http.post("/v1/images/generations", json=body)
        assert (answer.status_code, answer.json()["model"]) == (200, painter)
        if named:
            path = f"/openai/deployments/{named}/images/generations"
            answer = await service.http.post(path, json={"prompt": "a red apple"})
            assert answer.json()["model"] == painter


async def test_an_unknown_name_gets_the_names_that_are_served() -> None:
    async with serve_fake(**BOTH) as service:
        body = {"prompt": "a red apple", "model": "three"}
        native = await service.http.post("/generate", json=body)
        openai = await service.http.post("/v1/images/generations", json=body)
        assert (native.status_code, openai.status_code) == (404, 400)
        for answer in (native, openai):
            error = answer.json()["error"]
            assert error["code"] == "model_not_found"
            assert error["param"] == "model"
            assert error["message"] == 'This server has no model "three"; it has one and two.'
        assert (await service.http.get("/v1/models/three")).status_code == 404


async def test_one_model_may_be_named_on_the_native_route() -> None:
    async with serve_fake() as service:
        assert (await generate(service, model="star-fake"))[0] == 200
        status, answer = await generate(service, model="star-mini")
        assert status == 404
        assert answer["error"]["message"] == (
            'This server has no model "star-mini"; it has star-fake.'
        )


async def test_the_list_has_all_and_then_the_aliases_of_the_first() -> None:
    async with serve_fake(**BOTH, model_aliases=["mine"]) as service:
        cards = (await service.http.get("/v1/models")).json()["data"]
        assert [(card["id"], card["alias_of"]) for card in cards] == [
            ("one", None),
            ("two", None),
            ("mine", "one"),
        ]
        card = (await service.http.get("/v1/models/two")).json()
        assert (card["id"], card["alias_of"]) == ("two", None)


async def test_vocabulary_and_reading_are_the_models_own() -> None:
    kinds = iter([FakeEngine(), FakeEngine(vocabulary=VOCABULARY)])
    async with serve_fake(make_engine=lambda: next(kinds), **BOTH) as service:
        assert (await service.http.get("/v1/models/one/vocabulary")).status_code == 404
        listed = (await service.http.get("/v1/models/two/vocabulary")).json()
        assert listed["model"] == "two"
        read = {"prompt": "a woman"}
        assert (await service.http.post("/read", json=read)).json()["unknown"] is None
        read["model"] = "two"
        assert (await service.http.post("/read", json=read)).json()["unknown"] == "woman"
        assert (await generate(service, prompt="a woman"))[0] == 200
        status, answer = await generate(service, prompt="a woman", model="two")
        assert (status, answer["error"]["code"]) == (400, "unknown_thing")
        assert answer["error"]["message"].startswith("two cannot draw")


async def test_each_has_a_queue_of_its_own() -> None:
    engines = [held_engine(slots=1), FakeEngine(slots=1)]
    made = iter(engines)
    async with serve_fake(make_engine=lambda: next(made), queue_capacity=1, **BOTH) as service:
        first = service.models.first.engine
        asked = [asyncio.create_task(service.generate(model="one")) for _ in range(2)]
        await until(lambda: first.outstanding == 2)
        status, answer = await generate(service, model="one")
        assert (status, answer["error"]["code"]) == (429, "queue_full")
        assert (await generate(service, model="two"))[0] == 200
        metrics = (await service.http.get("/metrics")).text
        assert 'star_requests_running{model="one"} 1.0' in metrics
        assert 'star_requests_waiting{model="one"} 1.0' in metrics
        assert 'star_requests_running{model="two"} 0.0' in metrics
        assert service.models.outstanding == 2
        engines[0].gate.set()
        assert [(await answer).status_code for answer in asked] == [200, 200]
        assert service.models.idle


async def test_a_model_that_cannot_be_loaded_leaves_the_others_serving() -> None:
    async with serve_fake(load_errors=[None, "There is no such file."], **BOTH) as service:
        ready = await service.http.get("/readyz")
        assert ready.status_code == 200
        assert ready.json() == {
            "status": "ok",
            "model": "one",
            "models": {"one": "ready", "two": "failed"},
        }
        state = (await service.http.get("/startupz")).json()
        assert state["started"] is True
        assert "error" not in state
        assert [(m["model"], m["started"]) for m in state["models"]] == [
            ("one", True),
            ("two", False),
        ]
        assert state["models"][1]["error"] == "There is no such file."
        assert [(w["model"], w["worker"]) for w in state["workers"]] == [("one", 0), ("two", 0)]
        assert (await generate(service))[0] == 200
        status, answer = await generate(service, model="two")
        assert (status, answer["error"]["code"]) == (503, "engine_dead")
        assert "two could not be loaded" in answer["error"]["message"]
        names = [m["id"] for m in (await service.http.get("/v1/models")).json()["data"]]
        assert names[0] == "one"
        assert "two" not in names
        assert service.models.fatal is None


async def test_a_first_model_that_fails_does_not_stop_the_second() -> None:
    async with serve_fake(load_errors=["Damaged."], wait=False, **BOTH) as service:
        await until(lambda: service.models.settled)
        assert (await service.http.get("/readyz")).json()["model"] == "two"
        assert (await generate(service, model="two"))[0] == 200
        assert (await generate(service))[0] == 503


async def test_without_any_model_the_server_gives_up() -> None:
    async with serve_fake(load_errors=["Damaged.", "Missing."], wait=False, **BOTH) as service:
        await until(lambda: service.models.fatal is not None)
        assert service.models.fatal == "one: Damaged; two: Missing"
        assert (await service.http.get("/startupz")).status_code == 503


async def test_it_is_not_ready_before_each_has_been_tried() -> None:
    loaded = threading.Event()
    async with serve_fake(loaded=loaded, wait=False, **BOTH) as service:
        answer = await service.http.get("/readyz")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
        assert len(service.engines) <= 1, "the second waits for its turn"
        assert (await service.http.get("/livez")).status_code == 200
        status, answer = await generate(service, model="two")
        assert (status, answer["error"]["code"]) == (503, "model_loading")
        loaded.set()
        await until(lambda: service.models.settled)
        assert (await service.http.get("/readyz")).status_code == 200


async def test_a_worker_that_dies_takes_only_its_own_model_down() -> None:
    async with serve_fake(restart_backoff_s=60, **BOTH) as service:
        second = list(service.models)[1]
        worker = second.engine.workers.supervisors[0].worker
        assert worker is not None
        worker.kill()
        await until(lambda: second.engine.phase == "restarting")
        assert (await service.http.get("/readyz")).json()["models"] == {
            "one": "ready",
            "two": "restarting",
        }
        assert (await generate(service))[0] == 200
        status, answer = await generate(service, model="two")
        assert (status, answer["error"]["code"]) == (503, "engine_dead")
        assert (await service.http.get("/livez")).status_code == 200
        metrics = (await service.http.get("/metrics")).text
        assert 'star_engine_up{model="one",worker="0"} 1.0' in metrics
        assert 'star_engine_up{model="two",worker="0"} 0.0' in metrics


async def test_twins_are_not_both_served() -> None:
    async with serve_fake(model=["star-mini", "star-fake"], wait=False) as service:
        second = list(service.models)[1]
        await until(lambda: second.refused is not None)
        assert "the same name, star-fake" in str(second.failure)
        assert (await generate(service))[0] == 200
        assert (await service.http.get("/livez")).status_code == 200


async def test_one_model_has_no_label_and_several_have_one_everywhere() -> None:
    async with serve_fake() as service:
        page = (await service.http.get("/metrics")).text
        naming = re.findall(r'^(star_\w+)\{[^}]*\bmodel="', page, re.M)
        assert naming == ["star_model_info"], "which always does"
    async with serve_fake(**BOTH) as service:
        await generate(service)
        page = (await service.http.get("/metrics")).text
        labelled = set(re.findall(r'^(star_\w+)\{[^}]*model="two"', page, re.M))
        assert {
            "star_requests_waiting",
            "star_queue_capacity",
            "star_engine_phase",
            "star_slots_total",
            "star_images_total",
            "star_engine_exits_total",
            "star_queue_duration_seconds_count",
            "star_scale_step_duration_seconds_count",
            "star_model_info",
        } <= labelled
        assert 'star_images_total{model="one",worker="0"} 1.0' in page
        assert 'star_images_total{model="two",worker="0"} 0.0' in page


async def test_the_line_of_a_request_names_its_model() -> None:
    with capture_logs() as lines:
        async with serve_fake(**BOTH) as service:
            await generate(service, model="two")
        async with serve_fake() as service:
            await generate(service)
    requests = [line for line in lines if line["event"] == "request"]
    assert [line.get("model") for line in requests] == ["two", None]


@pytest.mark.parametrize(
    ("given", "models"),
    [
        ("one", ["one"]),
        ("one,two", ["one", "two"]),
        ('["one", "two"]', ["one", "two"]),
        (["one", "/models/two"], ["one", "/models/two"]),
    ],
)
def test_models_are_given_in_several_ways(given: Any, models: Sequence[str]) -> None:
    assert Settings(model=given).model == models


@pytest.mark.parametrize("given", [["a/one", "b/one"], ["one", "one"], ["one", " "], []])
def test_models_without_names_of_their_own_are_refused(given: list[str]) -> None:
    with pytest.raises(ValueError, match="model"):
        Settings(model=given)
