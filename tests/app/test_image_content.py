"""Images behind addresses, as browsers, download tools and caches ask for them."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.api.image_content import parse_range
from server.errors import RangeNotSatisfiable
from tests.server.image_metadata import opened
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio


async def ask(service: Service, **fields: object) -> httpx.Response:
    body = {"prompt": "a red apple", "response_format": "url", **fields}
    return await service.http.post("/v1/images/generations", json=body)


async def address(service: Service, **fields: object) -> str:
    answer = await ask(service, **fields)
    return str(answer.json()["data"][0]["url"])


@pytest.mark.parametrize(
    ("output_format", "extension", "media_type"),
    [("png", "png", "image/png"), ("jpeg", "jpg", "image/jpeg"), ("webp", "webp", "image/webp")],
)
async def test_an_address_ends_in_the_extension(
    service: Service, output_format: str, extension: str, media_type: str
) -> None:
    answer = await ask(service, n=2, output_format=output_format)
    images = answer.json()["data"]
    assert [set(image) for image in images] == [{"url", "seed"}] * 2
    assert len({image["url"] for image in images}) == 2
    for image in images:
        assert re.fullmatch(
            rf"http://test/v1/images/files/[A-Za-z0-9_-]{{32}}\.{extension}", image["url"]
        )
        file = await service.http.get(image["url"])
        assert file.status_code == 200
        assert file.headers["content-type"] == media_type
        assert file.headers["x-content-type-options"] == "nosniff"
        assert file.headers["cache-control"] == "private, max-age=3600, immutable"
        assert opened(file.content).size == (8, 8)


async def test_the_address_is_the_one_that_callers_know() -> None:
    async with serve_fake(public_url="https://images.example.org/star/") as service:
        assert (await address(service)).startswith("https://images.example.org/star/v1/images/")


async def test_only_so_many_images_are_kept() -> None:
    async with serve_fake(stored_images=1) as service:
        first, second = [await address(service) for _ in range(2)]
        gone = await service.http.get(first)
        assert (await service.http.get(second)).status_code == 200
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
        assert (await ask(service, n=2)).json()["error"]["param"] == "response_format"
    async with serve_fake(stored_images=0) as service:
        refused = await ask(service)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")


@pytest.mark.parametrize(
    "name", ["unknown", "..%2f..%2fetc%2fpasswd", "%00", "é", f"{'a' * 32}.png"]
)
async def test_a_name_that_is_not_there_is_404(service: Service, name: str) -> None:
    answer = await service.http.get(f"/v1/images/files/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert (await service.http.head(f"/v1/images/files/{name}")).status_code == 404


async def test_head_tells_what_get_would(service: Service) -> None:
    url = await address(service)
    got, told = (
        await service.http.get(url),
        await service.http.head(url, headers={"range": "bytes=0-3"}),
    )
    assert told.status_code == 200
    changing = {"x-request-id", "x-total-time"}
    assert {k: v for k, v in told.headers.items() if k not in changing} == {
        k: v for k, v in got.headers.items() if k not in changing
    }
    assert int(told.headers["content-length"]) == len(got.content)


async def test_browsers_show_it_or_save_it_under_a_name(service: Service) -> None:
    url = await address(service, output_format="jpeg")
    shown = (await service.http.get(url)).headers["content-disposition"]
    saved = (await service.http.get(f"{url}?download=1")).headers["content-disposition"]
    assert re.fullmatch(r'inline; filename="star-[0-9a-f]{8}\.jpg"', shown)
    assert saved == shown.replace("inline", "attachment")
    wrong = await service.http.get(f"{url}?download=perhaps")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "download")


async def test_the_name_of_a_saved_file_does_not_tell_the_address(service: Service) -> None:
    url = await address(service)
    answer = await service.http.get(url)
    secret = url.rpartition("/")[2].partition(".")[0]
    assert secret not in str(answer.headers)


async def test_who_has_the_file_is_told_so(service: Service) -> None:
    url, other = await address(service), await address(service)
    tag = (await service.http.get(url)).headers["etag"]
    for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        answer = await service.http.get(url, headers={"if-none-match": given})
        assert (answer.status_code, answer.content) == (304, b""), given
        assert answer.headers["etag"] == tag
        assert "cache-control" in answer.headers
    assert (await service.http.get(url, headers={"if-none-match": '"x"'})).status_code == 200
    assert (await service.http.get(other, headers={"if-none-match": tag})).status_code == 200


async def test_parts_of_a_file_put_together_are_the_file(service: Service) -> None:
    url = await address(service)
    whole = await service.http.get(url)
    size = len(whole.content)
    parts = []
    for header, shown in (("0-9", f"0-9/{size}"), ("10-", f"10-{size - 1}/{size}")):
        answer = await service.http.get(url, headers={"range": f"bytes={header}"})
        assert answer.status_code == 206
        assert answer.headers["content-range"] == f"bytes {shown}"
        assert answer.headers["etag"] == whole.headers["etag"]
        parts.append(answer.content)
    assert b"".join(parts) == whole.content
    assert whole.headers["accept-ranges"] == "bytes"


async def test_a_range_is_for_the_file_that_the_client_has_begun(service: Service) -> None:
    url = await address(service)
    tag = (await service.http.get(url)).headers["etag"]
    for given, status in ((tag, 206), ('"other"', 200)):
        headers = {"range": "bytes=0-3", "if-range": given}
        assert (await service.http.get(url, headers=headers)).status_code == status


async def test_a_range_behind_the_end_is_416(service: Service) -> None:
    url = await address(service)
    size = len((await service.http.get(url)).content)
    answer = await service.http.get(url, headers={"range": f"bytes={size}-"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=5-", range(5, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-30", range(10)),
        ("bytes=4-400", range(4, 10)),
        ("", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=5-4", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
        ("bytes=0-" + "9" * 5000, None),
        ("bytes=١-", None),
    ],
)
async def test_ranges(header: str, expected: range | None) -> None:
    assert parse_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
async def test_ranges_outside_the_file(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        parse_range(header, 10)


async def test_pages_of_other_origins_may_read_what_they_need() -> None:
    async with serve_fake(cors_origins=["https://app.example.org"]) as service:
        url = await address(service)
        answer = await service.http.get(url, headers={"origin": "https://app.example.org"})
    exposed = {each.strip() for each in answer.headers["access-control-expose-headers"].split(",")}
    assert {"etag", "content-range", "content-disposition"} <= exposed


async def test_no_answer_has_the_log_tell_a_secret_address(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    url = await address(service)
    secret = url.rpartition("/")[2]
    path = f"/v1/images/files/{secret}"
    assert (await service.http.get(path)).status_code == 200
    assert (await service.http.post(path)).status_code == 405
    assert (await service.http.get(f"/wrong/prefix{path}")).status_code == 404
    assert (await service.http.get(f"{path}/more")).status_code == 404
    for wrong in ("/images/files/", "/v1/images//files/", "/V1/images/files/", "/", "/v1/models/"):
        assert (await service.http.get(f"{wrong}{secret}")).status_code == 404
    async with serve_fake(api_keys="k" * 16) as locked:
        assert (await locked.http.get(f"{path}/more")).status_code == 401
    logged = capsys.readouterr().out
    assert logged.count("/v1/images/files/{name}") == 5
    assert secret not in logged


# ---- a store that servers share ------------------------------------------------------------------------------
async def test_an_address_of_one_server_is_good_on_another_and_after_a_restart(
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {"image_store": f"file://{tmp_path}/images"}
    async with serve_fake(**settings) as one, serve_fake(**settings) as two:
        url = await address(one)
        first, second = await one.http.get(url), await two.http.get(url)
        assert first.content == second.content
        assert first.headers["etag"] == second.headers["etag"]
    async with serve_fake(**settings) as again:
        assert (await again.http.get(url)).content == first.content


async def test_a_full_disk_is_the_servers_fault_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serve_fake(image_store=f"file://{tmp_path}/images") as service:

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        answer = await ask(service)
        assert answer.status_code == 503
        error = answer.json()["error"]
        assert error["code"] == "image_store_failed"
        assert "b64_json" in error["message"]
        assert int(answer.headers["retry-after"]) > 0
        metrics = (await service.http.get("/metrics")).text
        assert 'star_image_store_errors_total{operation="put"} 1.0' in metrics
        assert "No space left on device" in capsys.readouterr().out
        assert (await ask(service, response_format="b64_json")).status_code == 200
        monkeypatch.undo()
        assert (await ask(service)).status_code == 200
