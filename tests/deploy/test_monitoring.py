"""A real Prometheus scrapes the real server under load: every query of the dashboard and every rule has an answer."""

from __future__ import annotations

import base64
import contextlib
import math
import os
import re
import signal
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.deploy.prometheus import (
    Prometheus,
    dashboard_queries,
    needs_prometheus,
    rules,
    running_prometheus,
)
from tests.live_server import ROOT, LiveServer, running_server
from tests.server.pictures import file_of, photo
from tests.server.processes import wait_until, workers_of
from tests.star_model.tiny import write_tiny_model

pytestmark = needs_prometheus

FLAGS = (
    "--threads",
    "1",
    "--slots",
    "2",
    "--queue-capacity",
    "4",
    "--workers",
    "1",
    "--log-format",
    "json",
)
BODY = {"prompt": "a red apple", "seed": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("monitored")
    model = write_tiny_model(folder / "model")
    # Traces, for the exemplars; without the extra otel a line in the log says that there are none.
    env = {"OTEL_TRACES_EXPORTER": "console"}
    with running_server("--model", str(model), *FLAGS, log=folder / "log", env=env) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(
    server: LiveServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """One that has seen what can happen to a request."""
    with running_prometheus(
        f"127.0.0.1:{server.port}", tmp_path_factory.mktemp("prometheus")
    ) as running:
        wait_until(lambda: bool(running.query("star_engine_up == 1")), 30)
        trouble(server)
        stop = threading.Event()
        load = threading.Thread(target=paint, args=(server, stop))
        load.start()
        try:
            yield running
        finally:
            stop.set()
            load.join()


def paint(server: LiveServer, stop: threading.Event) -> None:
    """A light load of images, streams and edits, until told to stop."""
    stream = BODY | {"stream": True, "partial_images": 2}
    edit = BODY | {"image": base64.b64encode(file_of(photo(28))).decode(), "keep_scales": 2}
    with httpx.Client(base_url=server.url, timeout=180) as http:
        number = 0
        while not stop.wait(0.05):
            number += 1
            http.post("/generate", json=BODY | {"prompt": f"{number} apples", "n": 2})
            http.post("/generate", json=stream)
            http.post("/generate", json=edit)


def trouble(server: LiveServer) -> None:
    """Requests that are refused, given up, too late, and caught in the death of the worker."""
    with httpx.Client(base_url=server.url, timeout=180) as http:
        assert http.post("/generate", json={"prompt": ""}).status_code == 400
        (worker,) = workers_of(server.process.pid)
        os.kill(worker, signal.SIGSTOP)  # what is admitted now waits
        with contextlib.suppress(httpx.TimeoutException):
            http.post("/generate", json=BODY, timeout=0.5)
        assert http.post("/generate", json=BODY | {"timeout_s": 0.2}).status_code == 504
        waiting = threading.Thread(target=lambda: http.post("/generate", json=BODY | {"n": 6}))
        waiting.start()
        wait_until(lambda: "star_requests_waiting 1.0" in http.get("/metrics").text)
        assert http.post("/generate", json=BODY).status_code == 429
        os.kill(worker, signal.SIGKILL)
        waiting.join()
        wait_until(lambda: http.get("/readyz").status_code == 200, 180)


def answered(prometheus: Prometheus, expression: str) -> bool:
    """Whether it has series, all of them numbers."""
    series = prometheus.query(expression)
    return bool(series) and not any(math.isnan(float(s["value"][1])) for s in series)


@pytest.mark.parametrize("name", dashboard_queries())
def test_the_dashboard_has_data(prometheus: Prometheus, name: str) -> None:
    query = dashboard_queries()[name]
    wait_until(lambda: answered(prometheus, query), 30)


@pytest.mark.parametrize(
    "rule", [rule for rule in rules() if "record" in rule], ids=lambda r: r["record"]
)
def test_a_recording_rule_records(prometheus: Prometheus, rule: dict[str, str]) -> None:
    wait_until(lambda: answered(prometheus, rule["record"]), 30)


def test_every_rule_is_evaluated_without_an_error(prometheus: Prometheus) -> None:
    wait_until(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()), 30)
    assert len(prometheus.rules()) == len(rules())


@pytest.mark.parametrize(
    "counter",
    [
        'star_requests_total{endpoint="/generate", outcome="invalid"}',
        'star_rejections_total{reason="queue_full"}',
        "star_cancellations_total",
        "star_engine_restarts_total",
    ],
)
def test_the_first_event_is_an_increase(prometheus: Prometheus, counter: str) -> None:
    wait_until(
        lambda: any(float(s["value"][1]) > 0 for s in prometheus.query(f"increase({counter}[2m])")),
        30,
    )


def test_prometheus_asks_for_exemplars_and_keeps_them(prometheus: Prometheus) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")
    for histogram in ("request_duration", "scale_step_duration", "image_encode_duration"):
        query = f"star_{histogram}_seconds_bucket"
        wait_until(lambda query=query: bool(prometheus.exemplars(query)), 30)  # type: ignore[misc]
        assert all(
            re.fullmatch(r"[0-9a-f]{32}", labels["trace_id"])
            for labels in prometheus.exemplars(query)
        )


def test_a_query_of_nothing_is_seen(prometheus: Prometheus) -> None:
    assert not answered(prometheus, "star_no_such_metric")


# An alert that does not fire has no series, so its expression proves nothing: the selectors in it must have some.
SELECTOR = re.compile(r"\b(?:star[:_][\w:]+|up)\b(?:\{[^}]*\})?")


@pytest.mark.parametrize(
    "rule", [rule for rule in rules() if "alert" in rule], ids=lambda r: r["alert"]
)
def test_an_alert_watches_what_exists(prometheus: Prometheus, rule: dict[str, str]) -> None:
    selectors = SELECTOR.findall(rule["expr"])
    assert selectors
    for selector in selectors:
        wait_until(lambda selector=selector: answered(prometheus, selector), 30)  # type: ignore[misc]


def test_what_the_server_shows_is_what_the_operator_was_told(server: LiveServer) -> None:
    text = httpx.get(f"{server.url}/metrics").text
    shown = set(re.findall(r"^# TYPE (star_\w+) (?:counter|gauge|histogram)$", text, re.M))
    told = re.findall(
        r"^\| `(star_\w+)`", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.M
    )
    assert shown == set(told)
