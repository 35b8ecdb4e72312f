"""From listening sockets to the app: uvicorn's configuration, and connections within the limits of the settings."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Literal

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from server.http.acceptor import Acceptor, connections_for, raise_descriptor_limit
from server.http.connections import Connections
from server.http.protocol import BoundedProtocol, TransportLimits
from server.http.refusals import Refusals
from server.metrics import Metrics
from server.settings import Settings

_LAST_BYTES_SECONDS = 5


def uvicorn_config(app: ASGIApp, lifespan: Literal["on", "off"] = "on") -> uvicorn.Config:
    """Return uvicorn's configuration; what it does not know about, :func:`accept_connections` does.

    Args:
        app: that is served.
        lifespan: whether the app is told of its start and its end.
    """
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan=lifespan,
        server_header=False,
        proxy_headers=False,  # server.http.forwarded reads them
        ws="none",
        timeout_graceful_shutdown=_LAST_BYTES_SECONDS,
    )


def accept_connections(
    listeners: Sequence[socket.socket],
    config: uvicorn.Config,
    state: ServerState,
    app_state: dict[str, Any],
    *,
    settings: Settings,
    metrics: Metrics,
) -> list[Acceptor]:
    """Start accepting; to be called on the event loop.

    Args:
        listeners: bound and listening.
        config: uvicorn's, loaded.
        state: uvicorn's.
        app_state: of the lifespan.
        settings: limits.
        metrics: where connections are counted.
    """
    refusals = Refusals(metrics)
    most = min(settings.max_connections, connections_for(raise_descriptor_limit()))
    if most < settings.max_connections:
        structlog.get_logger("star.server").warning(
            "fewer connections than max_connections: raise the limit on file descriptors",
            connections=most,
        )
    connections = Connections(most, refusals)
    metrics.watch("connections", lambda: len(connections))
    limits = TransportLimits(
        settings.header_timeout_s,
        settings.max_header_bytes,
        settings.keep_alive_s,
        linger_bytes=settings.max_upload_bytes,
    )

    def make_protocol() -> BoundedProtocol:
        return BoundedProtocol(
            config, state, app_state, connections=connections, refusals=refusals, limits=limits
        )

    return [Acceptor(listener, make_protocol, connections, refusals) for listener in listeners]
