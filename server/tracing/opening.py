"""Traces as the environment asks for them, or none."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import structlog

from server.tracing.environment import trace_exporters

if TYPE_CHECKING:
    from server.tracing.tracing import Tracing

_GROUP = "opentelemetry_traces_exporter"


class TracingUnavailable(Exception):
    """Traces that cannot be had; the text says what to change."""


def open_tracing() -> Tracing | None:
    """Return the tracing that ``OTEL_*`` variables ask for; None if they ask for none.

    Variables of this kind are often set for all programs of a machine or a cluster. So what cannot be honoured is a
    warning in the log, and the server runs without traces.
    """
    names = trace_exporters()
    if not names:
        return None
    log = structlog.get_logger("star.tracing")
    try:
        tracing = _open(names)
    except TracingUnavailable as error:
        log.warning("no traces", reason=str(error))
        return None
    log.info("tracing", exporters=list(names), sampler=tracing.sampler)
    return tracing


def _open(names: tuple[str, ...]) -> Tracing:
    try:
        from server.tracing.tracing import Tracing
    except ImportError as error:
        raise TracingUnavailable(
            "OTEL_ variables ask for traces, which need the extra otel: pip install 'star-server[otel]'."
        ) from error
    exporters = [_exporter(name) for name in names]
    try:
        return Tracing([make() for make in exporters])
    except Exception as error:
        raise TracingUnavailable(f"The OTEL_ variables are refused: {error}") from error


def _exporter(name: str) -> Any:
    """Return the class of an exporter."""
    registered = entry_points(group=_GROUP)
    for entry in registered.select(name=name):
        return entry.load()
    there = ", ".join(sorted({entry.name for entry in registered}))
    raise TracingUnavailable(
        f"No installed package has the exporter {name!r}; there are {there}. Change OTEL_TRACES_EXPORTER or "
        "OTEL_EXPORTER_OTLP_PROTOCOL, or install the package that has it."
    )
