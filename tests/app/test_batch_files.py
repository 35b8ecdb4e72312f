"""Files of requests over the fake engine: kept, listed, refused, and read by a batch line by line."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.batch_files import jsonl, line
from tests.server.batch_service import create, ended, got, made, serve, texts_in, upload
from tests.server.fakes import held_engine
from tests.server.service import Service

pytestmark = pytest.mark.anyio


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with serve(tmp_path / "store") as running:
        yield running


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        ("{", "invalid_json_line", None),
        ('"text"', "invalid_json_line", None),
        (line("1"), "duplicate_custom_id", "custom_id"),
        ({**line("2"), "custom_id": 2}, "invalid_custom_id", "custom_id"),
        ({**line("2"), "method": "GET"}, "invalid_method", "method"),
        (line("2", "/v1/images/edits"), "invalid_url", "url"),
        ({**line("2"), "body": "a fox"}, "invalid_body", "body"),
        ({**line("2"), "n": 2}, "unknown_field", "n"),
        (line("2", padding="x" * 2000), "line_too_long", None),
    ],
)
async def test_a_file_with_a_mistake_fails_the_batch(
    tmp_path: Path, wrong: dict[str, Any] | str, code: str, param: str | None
) -> None:
    async with serve(tmp_path, max_body_bytes=1500) as service:
        file = (await upload(service, jsonl(line("1"), "", wrong))).json()
        batch = await ended(service, (await create(service, file["id"])).json()["id"])
        assert batch["status"] == "failed"
        assert batch["output_file_id"] is None
        (error,) = batch["errors"]["data"]
        assert (error["code"], error["line"], error["param"]) == (code, 3, param)
        assert error["message"].endswith(".")
        assert not service.engine.steps, "nothing is painted of a file with a mistake"


async def test_too_many_requests_and_none(tmp_path: Path) -> None:
    async with serve(tmp_path, batch_requests=2) as service:
        for lines, code in (
            ([line(str(i)) for i in range(3)], "too_many_requests"),
            ([""], "empty_file"),
        ):
            batch = await ended(service, await made(service, *lines))
            assert [error["code"] for error in batch["errors"]["data"]] == [code]
        batch = await ended(service, await made(service, line("1"), line("2")))
        assert batch["status"] == "completed"


async def test_a_file_is_kept_listed_and_deleted(service: Service) -> None:
    data = jsonl(line("1"))
    made = (
        await upload(
            service,
            data,
            **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"},
        )
    ).json()
    assert re.fullmatch(r"file-[0-9a-f]{36}", made["id"])
    assert made | {"id": "", "created_at": 0, "expires_at": 0} == {
        "id": "",
        "object": "file",
        "bytes": len(data),
        "created_at": 0,
        "expires_at": 0,
        "filename": "requests.jsonl",
        "purpose": "batch",
        "status": "processed",
    }
    assert made["expires_at"] == made["created_at"] + 3600
    assert await got(service, f"/v1/files/{made['id']}") == made
    answer = await service.http.get(f"/v1/files/{made['id']}/content")
    assert answer.content == data
    assert f'filename="{made["id"]}.jsonl"' in answer.headers["content-disposition"]
    head = await service.http.head(f"/v1/files/{made['id']}/content")
    assert (head.headers["content-length"], head.content) == (str(len(data)), b"")
    gone = await service.http.delete(f"/v1/files/{made['id']}")
    assert gone.json() == {"id": made["id"], "object": "file", "deleted": True}
    for path in ("", "/content"):
        assert (await service.http.get(f"/v1/files/{made['id']}{path}")).status_code == 404
    assert (await service.http.delete(f"/v1/files/{made['id']}")).status_code == 404
    assert (await got(service, "/v1/files"))["data"] == []


async def test_lists_have_pages(service: Service) -> None:
    files = [(await upload(service, jsonl(line("1")))).json()["id"] for _ in range(5)]
    assert [f["id"] for f in (await got(service, "/v1/files"))["data"]] == files[::-1]
    page = await got(service, f"/v1/files?order=asc&limit=2&after={files[1]}")
    assert [f["id"] for f in page["data"]] == files[2:4]
    assert page["has_more"] is True
    assert (await got(service, "/v1/files?purpose=batch_output"))["data"] == []
    batches = [(await create(service, file)).json()["id"] for file in files]
    page = await got(service, f"/v1/batches?limit=3&after={batches[-1]}")
    assert [b["id"] for b in page["data"]] == batches[3:0:-1]
    assert page["has_more"] is True
    assert (await got(service, f"/v1/batches?after={batches[1]}"))["has_more"] is False
    for batch in batches:
        await ended(service, batch)
    outputs = await got(service, "/v1/files?purpose=batch_output&limit=5")
    assert (len(outputs["data"]), outputs["has_more"]) == (5, False)


async def test_a_file_whose_batch_has_not_ended_stays(tmp_path: Path) -> None:
    async with serve(tmp_path, make_engine=held_engine) as service:
        batch_id = await made(service, line("1"))
        file_id = (await got(service, f"/v1/batches/{batch_id}"))["input_file_id"]
        refused = await service.http.delete(f"/v1/files/{file_id}")
        assert refused.status_code == 400
        assert batch_id in refused.json()["error"]["message"]
        service.engine.gate.set()
        batch = await ended(service, batch_id)
        assert (await service.http.delete(f"/v1/files/{file_id}")).status_code == 200
        await service.http.delete(f"/v1/files/{batch['output_file_id']}")
        assert not texts_in(tmp_path / "results")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "60"}, "expires_after.anchor"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "99999999"}, "expires_after.seconds"),
        ({"colour": "red"}, "colour"),
    ],
)  # fmt: skip
async def test_an_upload_that_is_refused(
    service: Service, fields: dict[str, str], param: str
) -> None:
    answer = await upload(service, jsonl(line("1")), **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


async def test_uploads_without_a_form_a_file_or_room(tmp_path: Path) -> None:
    async with serve(tmp_path, batch_file_bytes=2000) as service:
        post = service.http.post
        assert (await post("/v1/files", json={"purpose": "batch"})).status_code == 415
        empty = await upload(service, b"")
        assert (empty.status_code, empty.json()["error"]["param"]) == (400, "file")
        nothing = await post("/v1/files", files={"purpose": (None, "batch")})
        assert (nothing.status_code, nothing.json()["error"]["param"]) == (400, "file")
        assert (await upload(service, b"x" * 2000)).status_code == 200
        for size in (2001, 100_000):
            answer = await upload(service, b"x" * size)
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                413,
                "request_too_large",
            )
