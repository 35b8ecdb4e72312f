"""Images in S3: against a server that speaks its protocol, and without one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.images.stores.s3 import S3Backend
from server.images.stores.store import BackendError
from tests.live_server import LiveServer, free_port, running_server
from tests.server.object_store import (
    ACCOUNT,
    keys_in,
    make_bucket,
    needs_moto,
    running_object_store,
)
from tests.server.service import Service, serve_fake
from tests.star_model.tiny import GOLDFISH, write_quick_model

obstore = pytest.importorskip("obstore", reason="the extra s3 is not installed")
pytestmark = [pytest.mark.anyio, needs_moto]
NAME = f"{'n' * 32}.png"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_object_store(tmp_path_factory.mktemp("s3") / "log") as url:
        make_bucket(url, "images")
        yield url


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def bucket(endpoint: str) -> Any:
    """The bucket, without the server's own code."""
    from obstore.store import S3Store

    options = {"allow_http": True}
    return S3Store("images", config={"endpoint": endpoint}, client_options=options)


async def test_a_file_is_kept_under_the_prefix_until_its_time_is_over(endpoint: str) -> None:
    clock = Clock()
    backend = S3Backend("s3://images/a/b", 60, endpoint, clock)
    assert await backend.read(NAME) is None
    await backend.write(NAME, b"file")
    assert f"a/b/{NAME}" in keys_in(endpoint, "images")
    clock.now += 59
    assert await S3Backend("s3://images/a/b", 60, endpoint, clock).read(NAME) == b"file"
    clock.now += 1
    assert await backend.read(NAME) is None


async def test_the_object_says_when_it_expires(endpoint: str) -> None:
    await S3Backend("s3://images/said", 60, endpoint, Clock()).write(NAME, b"file")
    found = await obstore.get_async(bucket(endpoint), f"said/{NAME}")
    assert found.attributes["expires-at"] == "1000060"


async def test_an_object_of_somebody_else_is_not_served(endpoint: str) -> None:
    await obstore.put_async(bucket(endpoint), f"other/{NAME}", b"x")
    assert await S3Backend("s3://images/other", 60, endpoint, Clock()).read(NAME) is None


async def test_a_bucket_that_is_not_there_is_told(endpoint: str) -> None:
    with pytest.raises(BackendError):
        await S3Backend("s3://no-such-bucket", 60, endpoint).write(NAME, b"file")


async def ask(service: Service) -> httpx.Response:
    body = {"prompt": GOLDFISH, "response_format": "url"}
    return await service.http.post("/v1/images/generations", json=body)


async def test_a_store_out_of_reach_is_503_and_painting_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    async with serve_fake(image_store="s3://images", s3_endpoint=nobody) as service:
        started = time.monotonic()
        answer = await ask(service)
        assert time.monotonic() - started < 60
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "image_store_failed")
        logged = capsys.readouterr().out
        assert "image store failed" in logged
        assert (await service.generate()).status_code == 200


def flags(model: Path, *others: str) -> tuple[str, ...]:
    return ("--model", str(model), "--threads", "1", *others)


def painted(server: LiveServer) -> str:
    body = {"prompt": GOLDFISH, "response_format": "url", "output_format": "webp"}
    answer = httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=120)
    return httpx.URL(answer.raise_for_status().json()["data"][0]["url"]).path


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_replicas_share_a_store_that_survives_a_restart(
    kind: str, endpoint: str, tmp_path: Path
) -> None:
    model = write_quick_model(tmp_path / "model")
    store = (
        ("--image-store", f"file://{tmp_path}/images")
        if kind == "directory"
        else ("--image-store", "s3://images/shared", "--s3-endpoint", endpoint)
    )
    with running_server(*flags(model, *store), log=tmp_path / "other") as other:
        with running_server(*flags(model, *store), log=tmp_path / "first") as first:
            path = painted(first)
            assert path.endswith(".webp")
            files = [httpx.get(f"{each.url}{path}", timeout=60) for each in (first, other)]
            assert files[0].raise_for_status().content == files[1].raise_for_status().content
            assert files[0].headers["etag"] == files[1].headers["etag"]
        with running_server(*flags(model, *store), log=tmp_path / "again") as again:
            assert httpx.get(f"{again.url}{path}", timeout=60).content == files[0].content
            told = httpx.head(f"{again.url}{path}", timeout=60)
            assert int(told.headers["content-length"]) == len(files[0].content)
            part = httpx.get(f"{again.url}{path}", headers={"range": "bytes=-4"}, timeout=60)
            assert (part.status_code, part.content) == (206, files[0].content[-4:])
