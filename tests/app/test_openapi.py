"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789"


BATCH_WORK = {
    "GET /v1/files",
    "POST /v1/files",
    "GET /v1/files/{file_id}",
    "GET /v1/files/{file_id}/content",
    "DELETE /v1/files/{file_id}",
    "GET /v1/batches",
    "POST /v1/batches",
    "GET /v1/batches/{batch_id}",
    "POST /v1/batches/{batch_id}/cancel",
}


async def operations(service: Service) -> dict[str, dict[str, Any]]:
    """Each operation of the document, by ``POST /generate``; references are resolved."""
    spec = (await service.http.get("/openapi.json")).json()

    def resolved(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                assert node["$ref"].startswith("#/components/schemas/")
                return resolved(spec["components"]["schemas"][node["$ref"].rpartition("/")[2]])
            return {key: resolved(value) for key, value in node.items()}
        return [resolved(item) for item in node] if isinstance(node, list) else node

    return {
        f"{method.upper()} {path}": resolved(operation)
        for path, found in spec["paths"].items()
        for method, operation in found.items()
    }


async def test_every_operation_has_examples_of_what_goes_in_and_comes_out(shared: Service) -> None:
    for name, operation in (await operations(shared)).items():
        contents = [operation["requestBody"]["content"]] if "requestBody" in operation else []
        contents += [
            answer["content"] for answer in operation["responses"].values() if "content" in answer
        ]
        for content in contents:
            for kind, media in content.items():
                binary = media.get("schema", {}).get("format") == "binary"
                shown = {"example", "examples"} & (set(media) | set(media.get("schema", {})))
                assert shown or binary, f"{name}: {kind} has no example"


async def test_the_page_begins_with_images_and_ends_with_probes(shared: Service) -> None:
    spec = (await shared.http.get("/openapi.json")).json()
    order = [tag["name"] for tag in spec["tags"]]
    assert order == ["images", "OpenAI", "Hugging Face", "operation"]
    used = {t for path in spec["paths"].values() for found in path.values() for t in found["tags"]}
    assert used == set(order)


async def test_every_operation_says_what_it_is(shared: Service) -> None:
    found = await operations(shared)
    assert set(found) == BATCH_WORK | {
        "GET /",
        "POST /",
        "POST /generate",
        "POST /v1/images/generations",
        "POST /v1/images/edits",
        "GET /v1/images/files/{name}",
        "GET /v1/models",
        "GET /v1/models/{model}",
        "GET /v1/models/{model}/vocabulary",
        "GET /v1/models/{model}/gallery",
        "POST /read",
        "GET /livez",
        "GET /readyz",
        "GET /startupz",
        "GET /health",
        "GET /metrics",
    }
    for name, operation in found.items():
        assert operation["summary"], name
        assert operation["description"], name
        assert "422" not in operation["responses"], name
        for status in ("429", "503"):
            if status in operation["responses"] and "has not been loaded yet" not in str(
                operation["responses"][status]
            ):
                assert "retry-after" in operation["responses"][status]["headers"], name
        for status, code in {
            "403": "host_not_allowed", "408": "request_timeout", "413": "request_too_large", "431": "header_too_large"
        }.items():  # fmt: skip
            assert code in operation["responses"][status]["content"]["application/json"]["examples"]
        if name.startswith("POST"):
            examples = operation["responses"]["429"]["content"]["application/json"]["examples"]
            assert "too_many_uploads" in examples
    ids = [operation["operationId"] for operation in found.values()]
    assert len(set(ids)) == len(ids)


async def test_the_key_is_part_of_the_document_when_there_is_one(shared: Service) -> None:
    assert not [
        name for name, operation in (await operations(shared)).items() if "security" in operation
    ]
    async with serve_fake(api_keys=[KEY]) as locked:
        spec = (await locked.http.get("/openapi.json")).json()
        assert spec["components"]["securitySchemes"] == {
            "ApiKey": {"type": "http", "scheme": "bearer"}
        }
        found = await operations(locked)
    secured = {name for name, operation in found.items() if "security" in operation}
    assert secured == {name for name, operation in found.items() if "401" in operation["responses"]}
    assert secured == BATCH_WORK | {
        "POST /",
        "POST /generate",
        "POST /v1/images/generations",
        "POST /v1/images/edits",
        "GET /v1/models",
        "GET /v1/models/{model}",
        "GET /v1/models/{model}/vocabulary",
        "GET /v1/models/{model}/gallery",
        "POST /read",
    }


async def test_the_page_needs_nothing_from_elsewhere(shared: Service) -> None:
    page = await shared.http.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page.text)
    assert len(addresses) == 4
    for address in addresses:
        assert address.startswith("/"), address
        assert (await shared.http.get(address)).status_code == 200, address
    assert "//" not in re.sub(r"//.*swagger-ui", "", page.text.replace("<!DOCTYPE html>", ""))
    assert '"validatorUrl": null' in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy.partition("script-src")[2]
    for path in (
        "/docs",
        "/docs/parts/swagger-ui.css",
        "/docs/parts/none",
        "/openapi.json",
        "/<b>",
    ):
        assert (await shared.http.get(path)).headers["x-content-type-options"] == "nosniff"
    assert (await shared.http.get("/redoc")).status_code == 404
    assert (await shared.http.get("/docs/parts/../../core.py")).status_code == 404
