"""Keys with names, limits and ends, and their file that changes under a running server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import yaml
from pydantic import SecretStr

from server.api_keys import hash_of
from server.http.key_watch import ServerKeys
from server.messages import BATCH, Accept
from server.metrics import Metrics
from server.settings import Settings
from server.settings_file import SettingsFileError
from tests.server.fakes import held_engine
from tests.server.service import Service, serve_fake, until

pytestmark = pytest.mark.anyio

KEY, OTHER = "star-test-0123456789-a", "star-test-0123456789-b"


def replace(file: Path, text: str) -> None:
    """Replace a file in one step, as editors and Kubernetes do; nobody reads half of it."""
    new = file.with_suffix(".new")
    new.write_text(text)
    os.replace(new, file)


def write(file: Path, *entries: dict[str, Any]) -> None:
    replace(file, yaml.safe_dump({"keys": list(entries)}))


def entry(name: str, key: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "hash": hash_of(key), **fields}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    write(path, entry("shop", KEY), entry("nightly", OTHER, priority="batch"))
    return path


@pytest.fixture
async def locked(file: Path) -> AsyncIterator[Service]:
    async with serve_fake(api_key_file=file) as running:
        yield running


async def paint(service: Service, key: str, **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return await service.http.post("/generate", json={"prompt": "a", **body}, headers=headers)


def reload(service: Service, file: Path) -> None:
    """Read the keys again now, as SIGHUP does."""
    keys: ServerKeys = service.app.state.context.keys
    keys.prepare(Settings(api_key_file=file))()


async def test_names_are_in_the_log_and_in_the_metrics(file: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        async with serve_fake(api_key_file=file) as locked:
            assert (await paint(locked, KEY, n=2)).status_code == 200
            assert (await paint(locked, KEY, n=0)).status_code == 400
            read = locked.models.metrics.registry.get_sample_value
            assert read("star_key_requests_total", {"key": "shop", "outcome": "ok"}) == 1
            assert read("star_key_requests_total", {"key": "shop", "outcome": "invalid"}) == 1
            assert read("star_key_images_total", {"key": "shop"}) == 2
            assert read("star_api_keys") == 2
    assert [line["api_key"] for line in lines if line["event"] == "request"] == ["shop", "shop"]
    assert KEY not in str(lines)


async def test_names_of_many_keys_share_a_series() -> None:
    metrics = Metrics()
    for number in range(300):
        metrics.count_key_image(f"key-{number}")
    assert metrics.render().count(b"star_key_images_total{") == 101
    assert metrics.registry.get_sample_value("star_key_images_total", {"key": "other"}) == 200


async def test_a_job_is_its_keys_and_of_its_class(locked: Service) -> None:
    for key in (KEY, OTHER):
        assert (await paint(locked, key)).status_code == 200
    jobs = [message.job for message in locked.worker().sent if isinstance(message, Accept)]
    assert [(job.tenant, job.priority) for job in jobs] == [("shop", 0), ("nightly", BATCH)]


async def test_each_key_has_limits_of_its_own(file: Path) -> None:
    write(file, entry("shop", KEY, images_per_minute=3), entry("free", OTHER))
    async with serve_fake(api_key_file=file) as locked:
        first = await paint(locked, KEY, n=2)
        assert first.status_code == 200
        assert first.headers["x-ratelimit-limit-images"] == "3"
        assert first.headers["x-ratelimit-remaining-images"] == "1"
        assert first.headers["x-ratelimit-reset-images"].endswith("s")
        assert "x-ratelimit-limit-requests" not in first.headers
        refused = await paint(locked, KEY, n=2)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-ratelimit-remaining-images"] == "1"
        assert (await paint(locked, KEY, n=4)).status_code == 400
        for _ in range(4):
            free = await paint(locked, OTHER, n=2)
            assert free.status_code == 200
            assert "x-ratelimit-limit-images" not in free.headers


async def test_images_in_flight_are_bounded_by_key(file: Path) -> None:
    write(file, entry("shop", KEY, images_in_flight=3), entry("free", OTHER))
    async with serve_fake(api_key_file=file, make_engine=held_engine) as locked:
        two = asyncio.create_task(paint(locked, KEY, n=2))
        await until(lambda: locked.client.outstanding == 2)
        refused = await paint(locked, KEY, n=2)
        assert refused.status_code == 429
        error = refused.json()["error"]
        assert error["code"] == "rate_limit_exceeded"
        assert "3 images in flight" in error["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert (await paint(locked, KEY, n=4)).json()["error"]["param"] == "n"
        others = asyncio.create_task(paint(locked, OTHER, n=4))
        await until(lambda: locked.client.outstanding == 6)
        locked.engine.gate.set()
        assert (await two).status_code == (await others).status_code == 200
        assert (await paint(locked, KEY, n=3)).status_code == 200


async def test_an_expired_key_is_refused_by_name(file: Path) -> None:
    now = datetime.now(UTC)
    write(
        file,
        entry("old", KEY, expires=(now - timedelta(seconds=1)).isoformat()),
        entry("new", OTHER, expires=(now + timedelta(days=1)).isoformat()),
    )
    async with serve_fake(api_key_file=file) as locked:
        refused = await paint(locked, KEY)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert "old expired on" in refused.json()["error"]["message"]
        assert (await paint(locked, OTHER)).status_code == 200


async def test_keys_read_again_count_from_the_next_request(locked: Service, file: Path) -> None:
    write(file, entry("nightly", OTHER))
    assert (await paint(locked, KEY)).status_code == 200
    reload(locked, file)
    assert (await paint(locked, KEY)).status_code == 401
    assert (await paint(locked, OTHER)).status_code == 200
    read = locked.models.metrics.registry.get_sample_value
    assert read("star_key_file_reads_total", {"result": "ok"}) == 1
    assert read("star_api_keys") == 1


async def test_whether_keys_are_needed_does_not_change(locked: Service) -> None:
    with pytest.raises(SettingsFileError, match="restart it"):
        locked.app.state.context.keys.prepare(Settings())
    assert (await paint(locked, KEY)).status_code == 200
    async with serve_fake() as free:
        with pytest.raises(SettingsFileError, match="restart it"):
            free.app.state.context.keys.prepare(Settings(api_keys=[SecretStr(KEY)]))


async def test_a_change_of_the_file_is_noticed_and_a_bad_one_changes_nothing(file: Path) -> None:
    metrics = Metrics()

    def reads(result: str) -> float:
        name = "star_key_file_reads_total"
        return metrics.registry.get_sample_value(name, {"result": result}) or 0

    with structlog.testing.capture_logs() as lines:
        keys = ServerKeys(Settings(api_key_file=file), metrics, look_s=0.005)
        keys.start()
        try:
            write(file, entry("nightly", OTHER))
            await until(lambda: keys.ring.find(KEY) is None)
            replace(file, "keys: [")
            await until(lambda: reads("failed") == 1)
            os.unlink(file)
            await until(lambda: reads("failed") == 2)
            found = keys.ring.find(OTHER)
            assert found is not None
            assert found.name == "nightly"
            write(file, entry("renamed", OTHER))
            await until(lambda: getattr(keys.ring.find(OTHER), "name", "") == "renamed")
        finally:
            await keys.close()
    failed = [line for line in lines if line["event"].startswith("keys not read")]
    assert [line["log_level"] for line in failed] == ["error", "error"]
    assert "not valid YAML" in failed[0]["reason"]
    assert "cannot be read" in failed[1]["reason"]
    assert (reads("ok"), reads("failed")) == (2, 2)
