"""The standard ``OTEL_*`` variables that say whether there are traces; the SDK reads all others by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def trace_exporters(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the names of the exporters that the environment asks for, as packages register them.

    ``OTEL_TRACES_EXPORTER`` lists them; where it is not set, an endpoint for OTLP asks for ``otlp``. The
    specification exports to this machine when nothing is set at all; a server must not, as most machines have no
    collector.

    Args:
        environment: all variables; an empty one counts as not set.

    Returns:
        such as ``("otlp_proto_http",)``; empty when nothing asks for traces, or ``OTEL_SDK_DISABLED`` is true.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    given = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    if not given and _first(environment, _ENDPOINTS):
        given = "otlp"
    names = [name.strip().lower() for name in given.split(",")]
    protocol = _first(environment, _PROTOCOLS) or "http/protobuf"
    registered = {"otlp": "otlp_proto_" + protocol.removesuffix("/protobuf")}
    return tuple(
        dict.fromkeys(registered.get(name, name) for name in names if name not in ("", "none"))
    )


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    """Return the first of these variables that is set."""
    return next((value for name in names if (value := environment.get(name, "").strip())), "")
