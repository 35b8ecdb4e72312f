"""A real Prometheus for tests, and the queries of this repository that it must be able to answer."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.live_server import ROOT, free_port
from tests.server.processes import wait_until

FOLDER = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "star.json"
RULE_FILES = sorted((FOLDER / "rules").glob("*.yml"))

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed: apt install prometheus"
)
needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="Prometheus is not installed: apt install prometheus"
)


def rules() -> list[dict[str, Any]]:
    """All recording rules and alerts."""
    groups = (
        group for file in RULE_FILES for group in yaml.safe_load(file.read_text("utf-8"))["groups"]
    )
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Of the dashboard, rows left out."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def dashboard_queries() -> dict[str, str]:
    """Every query of the dashboard, by panel and letter, with its variables as Grafana would fill them in."""
    values = {"$__rate_interval": "1m", "$job": "star", "$instance": ".+"}
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in values.items():
                query = query.replace(name, value)
            found[f"{panel['title']} {target['refId']}"] = query
    return found


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now.

        Raises:
            AssertionError: Prometheus does not understand it.
        """
        answer = httpx.get(
            f"{self.url}/api/v1/query", params={"query": expression}, timeout=20
        ).json()
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def exemplars(self, expression: str) -> list[dict[str, str]]:
        """The labels of the exemplars that the series of an expression have."""
        params = {"query": expression, "start": "0", "end": f"{time.time():.0f}"}
        answer = httpx.get(f"{self.url}/api/v1/query_exemplars", params=params, timeout=20).json()
        assert answer["status"] == "success", answer
        return [each["labels"] for series in answer["data"] for each in series["exemplars"]]

    def rules(self) -> list[dict[str, Any]]:
        """The rules with their health, as it was when they were last evaluated."""
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=20).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextlib.contextmanager
def running_prometheus(target: str, folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus with the repository's configuration and rules, quicker, on one target.

    Args:
        target: ``host:port`` of the server.
        folder: an empty one, for its configuration and its data.
    """
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / pattern) for pattern in config["rule_files"]]
    config["scrape_configs"] = [
        job for job in config["scrape_configs"] if job["job_name"] == "star"
    ]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    address = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
                "--enable-feature=exemplar-storage",
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: _ready(f"http://{address}"), 60)
        yield Prometheus(f"http://{address}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
