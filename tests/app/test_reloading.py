"""Settings that change while the server runs: what is in force at once, what waits, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from server.messages import LogFrom
from server.model_settings import WorkerSettings
from server.reloading import LIVE, Changes, Reloading
from server.settings import Settings
from server.settings_file import SettingsFileError
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio


def reloading_of(service: Service) -> Reloading:
    reloading: Reloading = service.app.state.reloading
    return reloading


def write(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


async def test_new_values_are_in_force_and_the_others_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "star.yaml", "max_timeout_s: 400\nslots: 2\n")
    async with serve_fake(config=file, log_level="warning") as service:
        write(file, "max_timeout_s: 500\nqueue_capacity: 1\nslots: 3\nhost: 0.0.0.0\n")
        changes = reloading_of(service).reload()
        assert changes == Changes(
            changed=("queue_capacity", "max_timeout_s"), waiting=("slots", "host")
        )
        assert (await service.generate(timeout_s=450)).status_code == 200
        refused = (await service.generate(timeout_s=501)).json()["error"]
        assert "at most 500" in refused["message"]
        metrics = (await service.http.get("/metrics")).text
        assert "star_queue_capacity 1.0" in metrics
        assert 'star_reloads_total{outcome="done"} 1.0' in metrics
        assert reloading_of(service).reload() == Changes(waiting=("slots", "host"))


async def test_a_rate_limit_changes_for_everybody(tmp_path: Path) -> None:
    file = write(tmp_path / "star.yaml", "images_per_minute: 1\n")
    async with serve_fake(config=file) as service:
        assert (await service.generate(n=3)).status_code == 400, "more than a minute ever allows"
        write(file, "images_per_minute: 3\n")
        reloading_of(service).reload()
        assert (await service.generate(n=3)).status_code == 200
        write(file, "images_per_minute: 3\nlog_prompts: true\n")
        reloading_of(service).reload()
        assert (await service.generate()).status_code == 429, "what was used up stays so"
        write(file, "")
        reloading_of(service).reload()
        assert (await service.generate(n=10)).status_code == 200


async def test_workers_hear_of_the_log_level_and_later_ones_start_with_it(tmp_path: Path) -> None:
    file = write(tmp_path / "star.yaml", "log_level: error\n")
    async with serve_fake(config=file) as service:
        write(file, "log_level: debug\n")
        reloading_of(service).reload()
        assert logging.getLogger().level == logging.DEBUG
        assert logging.getLogger("httpx").level == logging.WARNING
        assert LogFrom("debug") in service.worker().sent
        assert service.client.settings.for_worker().log_level == "debug"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prot: 5\n", "Unknown setting prot"),
        ("queue_capacity: 0\n", "queue_capacity must be"),
        ("max_timeout_s: 5\n", "must not exceed max_timeout_s"),
        ("a: b: c\n", "not valid YAML"),
    ],
)
async def test_a_wrong_file_changes_nothing(tmp_path: Path, text: str, reason: str) -> None:
    file = write(tmp_path / "star.yaml", "queue_capacity: 7\n")
    async with serve_fake(config=file) as service:
        write(file, "log_prompts: true\n" + text)
        with pytest.raises(SettingsFileError, match=reason):
            reloading_of(service).reload()
        assert service.client.settings.queue_capacity == 7
        assert reloading_of(service).settings.log_prompts is False
        metrics = (await service.http.get("/metrics")).text
        assert 'star_reloads_total{outcome="refused"} 1.0' in metrics
        assert 'star_reloads_total{outcome="done"} 0.0' in metrics


async def test_one_step_that_refuses_stops_all(tmp_path: Path) -> None:
    file = write(tmp_path / "star.yaml", "queue_capacity: 7\n")
    async with serve_fake(config=file) as service:

        def refuse(_: Settings) -> Callable[[], None]:
            raise SettingsFileError("The file of API keys is empty.")

        reloading_of(service).steps.append(refuse)
        write(file, "queue_capacity: 8\n")
        with pytest.raises(SettingsFileError, match="API keys"):
            reloading_of(service).reload()
        assert service.client.settings.queue_capacity == 7


async def test_a_flag_still_overrides_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "star.yaml", "queue_capacity: 7\n")
    async with serve_fake(config=file, queue_capacity=9) as service:
        write(file, "queue_capacity: 8\n")
        assert reloading_of(service).reload() == Changes()
        assert service.client.settings.queue_capacity == 9


def test_live_settings_exist_and_no_worker_is_built_from_them() -> None:
    assert set(LIVE) <= set(Settings.model_fields)
    assert set(LIVE) & set(WorkerSettings.model_fields) == {"log_level"}
