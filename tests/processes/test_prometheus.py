"""A real Prometheus scrapes the real server, and its linter reads the page."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer, free_port
from tests.server.processes import wait_until

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs prometheus and promtool",
)

METRICS = {
    "requests_running": "gauge",
    "requests_waiting": "gauge",
    "queue_capacity": "gauge",
    "slots_in_use": "gauge",
    "slots_total": "gauge",
    "engine_up": "gauge",
    "engine_phase": "gauge",
    "engine_heartbeat_age_seconds": "gauge",
    "gpu_memory_allocated_bytes": "gauge",
    "gpu_memory_reserved_bytes": "gauge",
    "build_info": "gauge",
    "model_info": "gauge",
    "requests_total": "counter",
    "images_total": "counter",
    "rejections_total": "counter",
    "cancellations_total": "counter",
    "engine_restarts_total": "counter",
    "engine_exits_total": "counter",
    "request_duration_seconds": "histogram",
    "queue_duration_seconds": "histogram",
    "time_to_first_preview_seconds": "histogram",
    "scale_step_duration_seconds": "histogram",
    "text_encode_duration_seconds": "histogram",
    "vae_decode_duration_seconds": "histogram",
    "image_encode_duration_seconds": "histogram",
    "batch_size": "histogram",
}
"""Every metric that the interface names, without its prefix, and its type."""


@pytest.fixture(scope="module")
def used_server(live_server: LiveServer) -> LiveServer:
    """The server after a request of which something is known: one image, two previews."""
    body = {"prompt": "a red apple", "seed": 1, "stream": True, "partial_images": 2}
    httpx.post(f"{live_server.url}/generate", json=body, timeout=120).raise_for_status()
    return live_server


@needs_prometheus
def test_prometheus_scrapes_every_metric(used_server: LiveServer, tmp_path: Path) -> None:
    config = tmp_path / "prometheus.json"  # JSON is YAML
    job = {"job_name": "star", "static_configs": [{"targets": [f"127.0.0.1:{used_server.port}"]}]}
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    port = free_port()
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        ) as prometheus,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as http,
    ):

        def query(expression: str) -> list[dict[str, Any]]:
            answer = http.get("/query", params={"query": expression}).raise_for_status()
            result: list[dict[str, Any]] = answer.json()["data"]["result"]
            return result

        def up() -> bool:
            assert prometheus.poll() is None, (tmp_path / "log").read_text()
            try:
                return [sample["value"][1] for sample in query("up")] == ["1"]
            except httpx.HTTPError:
                return False

        try:
            wait_until(up)
            known = http.get("/metadata").raise_for_status().json()["data"]
            types = {name: entries[0]["type"] for name, entries in known.items()}
            # Of a counter, Prometheus files the description under the name with or without its ending.
            described = {
                f"star_{name.removesuffix('_total')}": kind for name, kind in METRICS.items()
            }
            assert (
                described.items() <= {n.removesuffix("_total"): t for n, t in types.items()}.items()
            )
            (steps,) = query("sum(star_scale_step_duration_seconds_count)")
            assert int(steps["value"][1]) >= 7, "one a scale"
            (ready,) = query('star_engine_up{worker="0"}')
            assert ready["value"][1] == "1"
            (ok,) = query('star_requests_total{endpoint="/generate", outcome="ok"}')
            assert int(ok["value"][1]) >= 1
        finally:
            prometheus.terminate()


@needs_prometheus
def test_the_linter_of_prometheus_dislikes_one_name_alone(used_server: LiveServer) -> None:
    page = httpx.get(f"{used_server.url}/metrics", timeout=30).content
    lint = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, timeout=60, check=False
    )
    complaints = (lint.stdout + lint.stderr).decode().splitlines()
    assert len(complaints) == 1, complaints
    assert complaints[0].startswith("star_slots_total "), (
        "a gauge by a counter's name, but the interface's"
    )


def test_labels_are_bounded(used_server: LiveServer) -> None:
    """What a caller can choose, the path above all, makes no label."""
    before = httpx.get(f"{used_server.url}/metrics", timeout=30).text.count("\n")
    for i in range(20):
        httpx.get(f"{used_server.url}/some/path/{i}", timeout=30)
        httpx.post(
            f"{used_server.url}/generate", json={"prompt": f"prompt {i}", "n": 0}, timeout=30
        )
        httpx.request(f"VERB{i}", f"{used_server.url}/generate", timeout=30)
    after = httpx.get(f"{used_server.url}/metrics", timeout=30).text
    assert after.count("\n") == before, "series that were not there from the start"
    assert "some/path" not in after
    assert "prompt 1" not in after
