"""A service that has a store of batches, and what its callers ask of it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import httpx

from tests.server.batch_files import URL, jsonl, results
from tests.server.service import Service, serve_fake


def serve(store: Path, **settings: Any) -> AbstractAsyncContextManager[Service]:
    return serve_fake(**{"batch_store": f"file://{store}", **settings})


async def upload(service: Service, data: bytes, key: str = "", **fields: str) -> httpx.Response:
    return await service.http.post(
        "/v1/files",
        data={"purpose": "batch", **fields},
        files={"file": ("requests.jsonl", data)},
        headers=authorized(key),
    )


def authorized(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


async def create(service: Service, file_id: str, key: str = "", **fields: Any) -> httpx.Response:
    body = {
        "input_file_id": file_id,
        "endpoint": URL,
        "completion_window": "24h",
        **fields,
    }
    return await service.http.post("/v1/batches", json=body, headers=authorized(key))


async def made(service: Service, *lines: dict[str, Any] | str, **fields: Any) -> str:
    """The id of a new batch of these requests."""
    file = (await upload(service, jsonl(*lines))).raise_for_status().json()
    answer = await create(service, file["id"], **fields)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def got(service: Service, path: str, key: str = "") -> Any:
    answer = await service.http.get(path, headers=authorized(key))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ended(service: Service, batch_id: str, key: str = "") -> dict[str, Any]:
    """A batch once it has ended."""
    with anyio.fail_after(30):
        while True:
            batch: dict[str, Any] = await got(service, f"/v1/batches/{batch_id}", key)
            if batch["status"] in ("completed", "failed", "expired", "cancelled"):
                return batch
            await anyio.sleep(0.01)


async def content(service: Service, file_id: str) -> list[dict[str, Any]]:
    answer = await service.http.get(f"/v1/files/{file_id}/content")
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content)
    return results(answer.content)


def texts_in(folder: Path) -> list[str]:
    return [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]
