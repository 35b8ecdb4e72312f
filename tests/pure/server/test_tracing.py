"""Which traces the standard variables ask for, and what is said when they cannot be had."""

from __future__ import annotations

import sys

import pytest
import structlog

from server.tracing.environment import trace_exporters
from server.tracing.opening import open_tracing

HTTP, GRPC = "otlp_proto_http", "otlp_proto_grpc"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("variables", "exporters"),
    [
        ({}, ()),
        (ENDPOINT, (HTTP,)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, (HTTP,)),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318/v1/metrics"}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ()),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, (HTTP,)),
        ({"OTEL_TRACES_EXPORTER": " OTLP , console "}, (HTTP, "console")),
        ({"OTEL_TRACES_EXPORTER": "otlp,otlp"}, (HTTP,)),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, ()),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": ""}, (HTTP,)),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "True"}, ()),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "no"}, (HTTP,)),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, (GRPC,)),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, (HTTP,)),
        (
            ENDPOINT
            | {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            (HTTP,),
        ),
    ],
)
def test_exporters(variables: dict[str, str], exporters: tuple[str, ...]) -> None:
    assert trace_exporters(variables) == exporters


def said(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """The warning for variables that cannot be honoured."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with structlog.testing.capture_logs() as lines:
        assert open_tracing() is None
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("no traces", "warning")
    return str(line["reason"])


def test_without_variables_there_is_nothing_to_say() -> None:
    with structlog.testing.capture_logs() as lines:
        assert open_tracing() is None
    assert lines == []


def test_without_the_extra_the_log_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "server.tracing.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)  # as if it were not there
    assert "star-server[otel]" in said(monkeypatch, OTEL_TRACES_EXPORTER="otlp")


def test_an_exporter_that_nobody_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")
    reason = said(monkeypatch, OTEL_TRACES_EXPORTER="zipkin")
    assert "'zipkin'" in reason
    assert "console" in reason


def test_an_exporter_that_refuses_its_variables_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")
    reason = said(monkeypatch, OTEL_TRACES_EXPORTER="console", OTEL_BSP_MAX_QUEUE_SIZE="-1")
    assert "max_queue_size" in reason
