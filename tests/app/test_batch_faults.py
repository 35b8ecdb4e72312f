"""Requests of a batch whose way through the server breaks, as one over HTTP may break."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

import server.app
from server.api.batch_line import serve_line
from server.api.context import Context
from server.batches.run import LineRequest
from tests.server.batch_files import URL, jsonl, line, results
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio


async def finished(service: Service) -> dict[str, object]:
    """A new batch of one request, once it has ended."""
    file = {"file": ("a.jsonl", jsonl(line("1")))}
    uploaded = await service.http.post("/v1/files", data={"purpose": "batch"}, files=file)
    body = {"input_file_id": uploaded.json()["id"], "endpoint": URL, "completion_window": "1h"}
    batch = (await service.http.post("/v1/batches", json=body)).raise_for_status().json()
    with anyio.fail_after(30):
        while batch["status"] != "completed":
            await anyio.sleep(0.01)
            batch = (await service.http.get(f"/v1/batches/{batch['id']}")).json()
    return dict(batch)


@pytest.mark.parametrize(
    ("fault", "code"), [(MemoryError(), None), (ZeroDivisionError(), "internal_error")]
)
async def test_what_the_machine_is_short_of_is_waited_for_and_a_fault_is_not(
    fault: Exception, code: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    async def break_once(context: Context, asked: LineRequest) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise fault
        return await serve_line(context, asked)

    monkeypatch.setattr(server.app, "serve_line", break_once)
    monkeypatch.setattr("server.http.shortage._RETRY_S", 0.01)
    async with serve_fake(batch_store=tmp_path.as_uri()) as service:
        batch = await finished(service)
        if code is None:
            assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
            assert calls == 2
            return
        answer = await service.http.get(f"/v1/files/{batch['error_file_id']}/content")
        (failed,) = results(answer.content)
        assert failed["response"]["status_code"] == 500
        assert json.dumps(failed["response"]["body"]).count(code) == 1
        assert calls == 1
