"""A server exports its traces to a receiver of OTLP, set up by the standard variables alone."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer, free_port, running_server
from tests.server.processes import wait_until
from tests.star_model.tiny import GOLDFISH, write_quick_model

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")

from tests.server.otlp import ReceivedSpan, Receiver, running_receiver

FLAGS = ("--threads", "1", "--slots", "4", "--log-format", "json")
BODY = {"prompt": GOLDFISH, "seed": 1}
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


@dataclass(frozen=True)
class Traced:
    server: LiveServer
    receiver: Receiver

    def trace_of(self, answer: httpx.Response, spans: int = 1) -> list[ReceivedSpan]:
        """The spans of an answer's trace, once its server span and so many others have come."""
        _, trace_id, span_id, _ = answer.headers["traceparent"].split("-")
        wait_until(
            lambda: (
                span_id in [s.span_id for s in self.receiver.of(trace_id)]
                and len(self.receiver.of(trace_id)) >= spans
            )
        )
        return self.receiver.of(trace_id)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.server.written.splitlines() if line[:1] == "{"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quick_model(tmp_path_factory.mktemp("traced") / "model")


@pytest.fixture(scope="module")
def traced(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    with running_receiver() as (receiver, address):
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_RESOURCE_ATTRIBUTES": "zone=here",
            **SOON,
        }
        log = tmp_path_factory.mktemp("log") / "log"
        with running_server("--model", str(model), *FLAGS, log=log, env=env) as server:
            yield Traced(server, receiver)


def test_a_trace_goes_through_both_processes(traced: Traced) -> None:
    answer = httpx.post(f"{traced.server.url}/generate", json=BODY, timeout=180)
    assert answer.status_code == 200
    spans = traced.trace_of(answer)
    names = [span.name for span in spans]
    scales = [name for name in names if name.startswith("scale ")]
    assert scales == [f"scale {index}" for index in range(len(scales))]
    assert len(scales) > 2
    for stage in ("POST /generate", "image", "queue", "encode text", "decode", "encode", "send"):
        assert names.count(stage) == 1, stage
    by_id = {span.span_id: span for span in spans}
    (root,) = [span for span in spans if not span.parent_id]
    assert all(span is root or span.parent_id in by_id for span in spans), "one tree"
    # What the worker measured is within what the client waited for, although another process measured it.
    worked = sum(span.seconds for span in spans if span.name in (*scales, "decode"))
    assert 0 < worked < root.seconds < answer.elapsed.total_seconds()


def test_what_sends_the_spans_is_named(traced: Traced) -> None:
    answer = httpx.get(f"{traced.server.url}/v1/models")
    span = traced.trace_of(answer)[0]
    assert span.name == "GET /v1/models"
    assert span.resource["service.name"] == "star-server"
    assert span.resource["service.version"]
    assert span.resource["zone"] == "here"
    (line,) = [line for line in traced.lines() if line["event"] == "tracing"]
    assert line["exporters"] == ["otlp_proto_http"]


def test_requests_that_share_a_step_are_traces_of_their_own(traced: Traced) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool, httpx.Client(timeout=180) as http:
        bodies = [BODY | {"seed": seed} for seed in range(4)]
        answers = list(
            pool.map(lambda body: http.post(f"{traced.server.url}/generate", json=body), bodies)
        )
    traces = [traced.trace_of(answer) for answer in answers]
    assert len({spans[0].trace_id for spans in traces}) == 4
    for spans in traces:
        assert len([span for span in spans if span.name == "image"]) == 1
        assert all(
            1 <= span.attributes["star.batch_size"] <= 4
            for span in spans
            if span.name.startswith("scale ")
        )


def test_log_lines_and_exemplars_lead_to_traces(traced: Traced) -> None:
    answer = httpx.post(f"{traced.server.url}/generate", json=BODY, timeout=180)
    trace_id = traced.trace_of(answer)[0].trace_id
    wait_until(lambda: any(line.get("trace_id") == trace_id for line in traced.lines()))
    accept = {"accept": "application/openmetrics-text"}
    page = httpx.get(f"{traced.server.url}/metrics", headers=accept).text
    assert f'trace_id="{trace_id}"' in page


def test_an_unwilling_receiver_changes_no_answer(traced: Traced) -> None:
    traced.receiver.status = 503
    try:
        before = traced.receiver.requests
        for _ in range(3):
            answer = httpx.post(f"{traced.server.url}/generate", json=BODY, timeout=180)
            assert answer.status_code == 200
        wait_until(lambda: traced.receiver.requests > before)
    finally:
        traced.receiver.status = 200
    traced.trace_of(answer)  # and what it has not taken is sent again


def test_a_share_is_sampled_as_the_variables_say(model: Path, tmp_path: Path) -> None:
    with running_receiver() as (receiver, address):
        env = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{address}/v1/traces",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0",
            "OTEL_SERVICE_NAME": "pictures",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20secret",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            **SOON,
        }
        log = tmp_path / "log"
        with running_server("--model", str(model), *FLAGS, log=log, env=env) as server:
            unsampled = httpx.post(f"{server.url}/generate", json=BODY, timeout=180)
            flags = unsampled.headers["traceparent"].rpartition("-")[2]
            assert not int(flags, 16) & 1, "not sampled"
            caller = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
            sampled = httpx.post(f"{server.url}/generate", json=BODY, headers=caller, timeout=180)
            assert sampled.headers["traceparent"].startswith(f"00-{'ab' * 16}-")
        # The server has stopped, and sent what it had on its way out.
    assert {span.trace_id for span in receiver.spans} == {"ab" * 16}
    (root,) = [span for span in receiver.spans if span.name == "POST /generate"]
    assert root.parent_id == "cd" * 8
    assert root.resource["service.name"] == "pictures"
    assert receiver.headers["authorization"] == "Bearer secret"


def test_a_server_stops_although_nobody_takes_its_spans(model: Path, tmp_path: Path) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    with running_server("--model", str(model), *FLAGS, log=tmp_path / "log", env=env) as server:
        assert httpx.post(f"{server.url}/generate", json=BODY, timeout=180).status_code == 200
    assert server.process.returncode == 0


def test_without_the_variables_the_sdk_is_not_even_loaded(model: Path, tmp_path: Path) -> None:
    with running_server("--model", str(model), *FLAGS, log=tmp_path / "log") as server:
        answer = httpx.post(f"{server.url}/generate", json=BODY, timeout=180)
        assert "traceparent" not in answer.headers
        maps = Path(f"/proc/{server.process.pid}/maps")
        if maps.exists():
            assert "google/_upb" not in maps.read_text(), "protobuf, which the exporter loads"
