"""Classes and prompts: a text model refuses a class, and the API document offers either."""

from __future__ import annotations

import pytest

from tests.server.service import Service


@pytest.mark.anyio
async def test_a_text_model_has_no_classes(service: Service) -> None:
    answer = await service.http.post("/generate", json={"class_id": 3})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "class_id"
    assert "star-fake needs a prompt" in answer.json()["error"]["message"]
    card, *_ = (await service.http.get("/v1/models")).json()["data"]
    assert card["num_classes"] == 0


@pytest.mark.anyio
async def test_the_document_says_that_either_will_do(service: Service) -> None:
    document = (await service.http.get("/openapi.json")).json()
    schema = document["components"]["schemas"]["GenerateRequest"]
    assert schema["anyOf"] == [{"required": ["prompt"]}, {"required": ["class_id"]}]
    assert "required" not in schema
