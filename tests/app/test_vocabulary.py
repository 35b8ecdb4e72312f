"""A model that knows few things: what it lists, how it reads, and what each route does with what it cannot draw."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator

import anyio
import pytest
from PIL import Image

from server.errors import EngineDead, QueueFull
from star_model.reading import Reading
from tests.server.fakes import NOTE, SUGGESTIONS, VOCABULARY, FakeEngine, pictures
from tests.server.pictures import file_of
from tests.server.service import Service, serve_fake, until

pytestmark = pytest.mark.anyio


def knowing_few() -> FakeEngine:
    return FakeEngine(vocabulary=VOCABULARY)


@pytest.fixture
async def few() -> AsyncIterator[Service]:
    async with serve_fake(make_engine=knowing_few) as service:
        yield service


async def test_it_lists_what_it_draws(few: Service) -> None:
    answer = (await few.http.get("/v1/models/star-fake/vocabulary")).raise_for_status().json()
    assert answer == {
        "model": "star-fake",
        "things": [
            {"name": "a fox", "also": ["a vixen"], "kind": "animal"},
            {"name": "an owl", "also": [], "kind": "animal"},
            {"name": "a car", "also": [], "kind": None},
        ],
        "styles": ["flat", "3d"],
        "colours": ["blue", "red"],
        "backdrops": [{"name": "forest", "phrase": "in a forest"}],
        "max_things": 1,
    }
    card = (await few.http.get("/v1/models/star-fake")).json()
    assert card["num_things"] == 3


async def test_a_model_for_any_prompt_has_no_vocabulary(service: Service) -> None:
    answer = await service.http.get("/v1/models/star-fake/vocabulary")
    assert answer.status_code == 404
    assert "takes any prompt" in answer.json()["error"]["message"]
    assert (await service.http.get("/v1/models/star-fake")).json()["num_things"] is None
    answer = await service.http.post("/read", json={"prompt": " a woman "})
    assert answer.json()["drawn"] == "a woman"
    assert answer.json()["unknown"] is None


@pytest.mark.parametrize("path", ["vocabulary", "gallery"])
async def test_another_model_is_not_found(few: Service, path: str) -> None:
    answer = await few.http.get(f"/v1/models/a/b/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_prompt_is_read_and_nothing_painted(few: Service) -> None:
    for _ in range(2):
        answer = await few.http.post("/read", json={"prompt": "a wolf"})
        assert answer.raise_for_status().json() == {
            "drawn": "a fox",
            "things": ["a fox"],
            "style": None,
            "background": None,
            "unknown": None,
            "refused": None,
            "notes": ['"wolf" is drawn as "a fox".'],
            "suggestions": [],
        }
    assert few.engine.steps == []
    assert len([m for m in few.worker().sent if "ReadPrompt" in repr(m)]) == 1, "it is remembered"
    answer = await few.http.post("/read", json={"prompt": ""})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("extra", [{}, {"stream": True}, {"on_unknown": "suggest"}])
async def test_what_it_cannot_draw_is_refused_with_suggestions(
    few: Service, extra: dict[str, object]
) -> None:
    answer = await few.generate(prompt="a woman", **extra)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("unknown_thing", "prompt")
    assert error["suggestions"] == list(SUGGESTIONS)
    assert error["message"].startswith(
        'star-fake cannot draw "woman". Try "a fox", "an owl" or "a car"'
    )
    assert "on_unknown" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert few.engine.steps == []


async def test_the_nearest_is_drawn_where_it_is_wanted(few: Service) -> None:
    answer = await few.generate(prompt="a woman", on_unknown="nearest")
    assert answer.raise_for_status().json()["warnings"] == [NOTE]
    async with serve_fake(make_engine=knowing_few, on_unknown="nearest") as service:
        answer = await service.generate(prompt="a woman")
        assert answer.raise_for_status().json()["warnings"] == [NOTE]
        answer = await service.generate(prompt="a woman", on_unknown="suggest")
        assert answer.json()["error"]["code"] == "unknown_thing"


async def test_what_is_like_a_thing_is_drawn_with_a_warning(few: Service) -> None:
    answer = await few.generate(prompt="a wolf")
    assert answer.raise_for_status().json()["warnings"] == ['"wolf" is drawn as "a fox".']


async def test_clients_of_other_interfaces_get_the_nearest(few: Service) -> None:
    answer = await few.http.post("/v1/images/generations", json={"prompt": "a woman"})
    assert NOTE in answer.raise_for_status().json()["warnings"]
    answer = await few.http.post("/", json={"inputs": "a woman"})
    assert NOTE in json.loads(answer.raise_for_status().headers["x-warnings"])


@pytest.mark.parametrize("body", [{}, {"on_unknown": "nearest"}])
async def test_nothing_stands_for_people_on_any_route(few: Service, body: dict[str, str]) -> None:
    prompt, url, edits = "a muslim", "/v1/images/generations", "/v1/images/edits"
    picture = file_of(Image.new("RGB", (64, 64)))
    answers = [
        await few.generate(prompt=prompt, **body),
        await few.http.post(url, json={"prompt": prompt, "n": 2} | body),
        await few.http.post(url, json={"prompt": prompt, "stream": True} | body),
        await few.http.post(edits, data={"prompt": prompt} | body, files={"image": picture}),
        await few.http.post("/", json={"inputs": prompt}),
    ]
    for answer in answers:
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("unknown_thing", "prompt")
        assert error["message"] == (
            'star-fake cannot draw "muslim". The model draws no people. Try "a fox", "an owl" or "a car".'
        )
    assert few.engine.steps == []


async def test_openais_route_refuses_what_is_unknown_if_asked_to(few: Service) -> None:
    body = {"prompt": "a woman", "on_unknown": "suggest"}
    answer = await few.http.post("/v1/images/generations", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_thing")


async def test_a_prompt_that_could_not_be_read_ahead_is_refused_by_the_worker(
    few: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(prompt: str) -> Reading:
        raise QueueFull("Too many prompts are being read; try again in 1 s.", retry_after=1)

    monkeypatch.setattr(few.client.workers.readings, "read", busy)
    answer = await few.http.post("/v1/images/generations", json={"prompt": "a muslim"})
    assert answer.status_code == 400
    assert 'cannot draw "muslim"' in answer.json()["error"]["message"]
    answer = await few.http.post("/v1/images/generations", json={"prompt": "a wolf"})
    assert answer.status_code == 200
    assert (await few.generate(prompt="a wolf")).status_code == 429


async def test_a_question_ends_with_its_worker(few: Service) -> None:
    readings = few.client.workers.readings
    assert (await readings.read("a wolf")).things == ("a fox",)
    few.engine.gate.clear()
    async with anyio.create_task_group() as group:
        group.start_soon(few.generate)
        await until(lambda: bool(few.engine.steps))
        group.start_soon(expect_loss, few)
        await until(lambda: bool(readings._waiting))
        few.worker().kill()
    await until(lambda: few.client.phase == "ready")


async def expect_loss(service: Service) -> None:
    with pytest.raises(EngineDead):
        await service.client.workers.readings.read("an owl")


async def test_questions_are_bounded(few: Service) -> None:
    few.engine.gate.clear()
    readings = few.client.workers.readings
    async with anyio.create_task_group() as group:
        group.start_soon(few.generate)
        await until(lambda: bool(few.engine.steps))
        for number in range(64):
            group.start_soon(readings.read, f"{number} foxes")
        await until(lambda: len(readings._waiting) == 64)
        with pytest.raises(QueueFull):
            await readings.read("an owl")
        few.engine.gate.set()
    assert not readings._waiting


async def test_pictures_that_it_painted_ahead_are_listed() -> None:
    async with serve_fake(make_engine=lambda: FakeEngine(gallery=pictures(2))) as service:
        answer = (await service.http.get("/v1/models/star-fake/gallery")).raise_for_status().json()
        assert [(p["prompt"], p["seed"]) for p in answer["data"]] == [
            ("a fox number 1", 1),
            ("a fox number 2", 2),
        ]
        assert base64.b64decode(answer["data"][0]["b64_json"]).startswith(b"RIFF")


async def test_a_model_need_not_have_painted_any(service: Service) -> None:
    assert (await service.http.get("/v1/models/star-fake/gallery")).json() == {"data": []}
