"""``GET /v1/models``: licence and capabilities; what is said to be possible is served, and what is not is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from server.messages import ImageShape, ModelInfo
from star_model.sampling import Sampling
from tests.server import fakes
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio

MODELS: dict[str, ModelInfo] = {
    "plain": fakes.MODEL,
    "unguided": replace(fakes.MODEL, sampling=Sampling(guidance_scale=0.0)),
    "constant": replace(fakes.MODEL, guidance="constant", sampling=Sampling(guidance_scale=1.0)),
    "shapes": replace(fakes.MODEL, other_shapes=(ImageShape(1024, 256, 2000),)),
    "classes": replace(fakes.MODEL, num_classes=1000),
    "licensed": replace(fakes.MODEL, license="MIT"),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> ModelInfo:
    return MODELS[request.param]


@asynccontextmanager
async def serve(
    model: ModelInfo, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> AsyncIterator[tuple[Service, dict[str, Any]]]:
    """Serve a model of which only this is real, with its card."""
    monkeypatch.setattr(fakes, "MODEL", model)
    async with serve_fake(**settings) as service:
        card, *_ = (await service.http.get("/v1/models")).json()["data"]
        yield service, card


async def status(service: Service, **body: Any) -> int:
    return (await service.http.post("/generate", json=body)).status_code


async def test_what_is_said_is_served(model: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(model, monkeypatch) as (service, card):
        can = card["capabilities"]
        prompt = "tench" if can["prompt"] == "class" else "a red apple"
        assert await status(service, prompt=prompt) == 200
        assert await status(service, class_id=3) == (200 if can["prompt"] == "class" else 400)
        accepted = await status(service, prompt=prompt, negative_prompt=prompt) == 200
        assert accepted == can["negative_prompt"]
        off = {"rising": 0.0, "constant": 1.0}[can["guidance"]]
        body = {"prompt": prompt, "negative_prompt": prompt}
        assert await status(service, **body, guidance_scale=off) == 400
        assert await status(service, **body, guidance_scale=3.0) == 200
        for draft in range(4):
            expected = 200 if draft <= can["max_draft"] else 400
            assert await status(service, prompt=prompt, draft=draft) == expected
        for size, ratio in zip(card["sizes"], can["aspect_ratios"], strict=True):
            answer = await service.generate(prompt=prompt, aspect_ratio=ratio)
            assert answer.json()["size"] == size


@pytest.mark.parametrize("previews", [True, False])
async def test_previews_are_for_the_settings_to_allow(
    monkeypatch: pytest.MonkeyPatch, previews: bool
) -> None:
    async with serve(fakes.MODEL, monkeypatch, previews=previews) as (service, card):
        assert card["capabilities"]["previews"] == previews
        asked = {"prompt": "a fox", "stream": True, "partial_images": 1}
        assert await status(service, **asked) == (200 if previews else 400)


async def test_a_vocabulary_is_said_and_there() -> None:
    for vocabulary in (None, fakes.VOCABULARY):
        make = partial(fakes.FakeEngine, vocabulary=vocabulary)
        async with serve_fake(make_engine=make) as service:
            card = (await service.http.get("/v1/models/star-fake")).json()
            answer = await service.http.get("/v1/models/star-fake/vocabulary")
            there = vocabulary is not None
            assert card["capabilities"]["vocabulary"] == there
            assert answer.status_code == (200 if there else 404)
            assert (card["num_things"] is not None) == there


async def test_the_licence_is_that_of_the_weights(
    model: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(model, monkeypatch) as (_, card):
        assert card["license"] == model.license
        assert {"id", "object", "created", "owned_by"} <= card.keys(), "as OpenAI's clients expect"
        assert (card["object"], card["owned_by"]) == ("model", "star")
