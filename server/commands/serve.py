"""``star-server serve``: the app under uvicorn, from the first bound socket to a drained exit."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from server.app import create_admin_app, create_app, make_models
from server.commands.exposure import warn_of_exposure
from server.dispatch.served_models import ServedModels
from server.dispatch.worker_process import Run, run_worker
from server.errors import CannotListen, ServingFailed
from server.http.acceptor import Acceptor
from server.http.admin_key import read_admin_key
from server.http.browser_check import default_hosts
from server.http.transport import accept_connections, uvicorn_config
from server.logs import configure_logging
from server.metrics import Metrics
from server.reloading import Reloading
from server.settings import Settings
from server.settings_file import SettingsFileError
from server.tracing.opening import open_tracing
from star_model.checkpoints.hub import check_model
from star_model.errors import ModelNotFoundError

_BACKLOG = 2048
_UNSENT_BYTES = 128 << 10
_ADMINISTRATORS = 16
"""Connections to the port for administrators at most."""


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains when asked to stop: it goes on until running requests are done.

    While it drains it still listens, so that probes and new requests get a proper 503. A second signal ends it at
    once. SIGHUP asks it to stop if its terminal has been closed, and else to read its settings again. Under ``nohup``,
    which ignores SIGHUP for the programs that it starts, a closed terminal does not stop it.

    Args:
        config: uvicorn's.
        models: their requests are awaited.
        reloading: has the limits on connections, and the seconds that draining may take.
        admin: app and listening sockets of the port for administrators.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        models: ServedModels,
        reloading: Reloading,
        admin: tuple[FastAPI, list[socket.socket]] | None = None,
    ) -> None:
        super().__init__(config)
        self._admin = admin
        self._models = models
        self._reloading = reloading
        self._signals = 0
        self._hung_up = False
        self._ends_with_terminal = has_terminal()
        self._drain_until: float | None = None
        self._log = structlog.get_logger("star.server")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then accept connections within their limits; uvicorn's own servers know none."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        self.servers = accept_connections(  # type: ignore[assignment]
            sockets or [],
            self.config,
            self.server_state,
            self.lifespan.state,
            settings=self._reloading.settings,
            metrics=self._models.metrics,
        )
        if self._admin is not None:
            self.servers += self._accept_administrators(*self._admin)  # type: ignore[arg-type]
        self.started = True

    def _accept_administrators(self, app: FastAPI, sockets: list[socket.socket]) -> list[Acceptor]:
        config = uvicorn_config(app, lifespan="off")
        config.load()
        few = self._reloading.settings.model_copy(update={"max_connections": _ADMINISTRATORS})
        return accept_connections(
            sockets, config, self.server_state, {}, settings=few, metrics=Metrics()
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Hear SIGHUP too. If it was ignored, as ``nohup`` has it, no terminal ends the server."""
        with super().capture_signals():
            before = signal.signal(signal.SIGHUP, self._hear_hang_up)
            if before is signal.SIG_IGN:
                self._ends_with_terminal = False
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Count the signal. Unlike uvicorn, do not raise it again at the end, so the exit code is 0."""
        self._signals += 1

    def _hear_hang_up(self, sig: int, frame: FrameType | None) -> None:
        self._hung_up = True

    def _after_hang_up(self) -> None:
        """Stop if the terminal is gone; else somebody asks for the settings to be read again."""
        self._hung_up = False
        if self._ends_with_terminal and not has_terminal():
            self._signals += 1
            return
        with contextlib.suppress(SettingsFileError):  # it has been logged
            self._reloading.reload()

    async def on_tick(self, counter: int) -> bool:
        """Check ten times a second whether to stop; true ends the main loop."""
        if self._hung_up:
            self._after_hang_up()
        if await super().on_tick(counter) or self._models.fatal is not None:
            return True
        if not self._signals:
            return False
        now = self._models.clock()
        if self._drain_until is None:
            self._log.info(
                "draining",
                outstanding=self._models.outstanding,
                requests=self._models.requests,
                timeout_s=self._reloading.settings.drain_timeout_s,
            )
            self._models.begin_drain()
            self._drain_until = now + self._reloading.settings.drain_timeout_s
        if not self._models.idle and (self._signals > 1 or now >= self._drain_until):
            self._give_up()
        return self._models.idle

    def _give_up(self) -> None:
        """Fail what has not been finished in time, and say how much that is."""
        self._log.warning(
            "draining cut short" if self._signals > 1 else "drain timed out",
            requests=self._models.requests,
            outstanding=self._models.outstanding,
        )
        self._models.abandon()


def has_terminal() -> bool:
    """Whether this process has a controlling terminal; one that was closed is none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def listen(
    host: str, port: int, write_timeout_s: float = 60.0, *, prefix: str = ""
) -> list[socket.socket]:
    """Bind all addresses of a host name: ``localhost`` may have one of IPv4 and one of IPv6.

    Args:
        host: name or address.
        port: 0 takes a free one.
        write_timeout_s: seconds after which a client that reads nothing is disconnected.
        prefix: of the flags for host and port, for the error.

    Raises:
        CannotListen: none of the addresses is this machine's, or the port is taken; the text says what to do.
    """
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
            try:
                bound = _bind(family, (address[0], port, *address[2:]), write_timeout_s)
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                failure = error  # a family that this machine does not have
                continue
            sockets.append(bound)
            port = port or bound.getsockname()[1]
        if failure is not None and not sockets:
            raise failure
    except OSError as error:
        for bound in sockets:
            bound.close()
        reason = (error.strerror or str(error)).lower()
        raise CannotListen(
            f"Cannot listen on {host} port {port}: {reason}. Choose another with --{prefix}host or --{prefix}port."
        ) from error
    return sockets


def _bind(
    family: socket.AddressFamily, address: tuple[str | int, ...], write_timeout_s: float
) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" is every interface, and so takes IPv4 too where the system allows it.
            only = 0 if address[0] == "::" and socket.has_dualstack_ipv6() else 1
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        _limit_unsent(bound, write_timeout_s)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _limit_unsent(listener: socket.socket, write_timeout_s: float) -> None:
    """Limit what a slow or stopped reader can make the server keep; connections inherit the limits.

    The kernel buffers little unsent data, so that a slow reader's previews are dropped here rather than delivered
    late, and it disconnects a client that reads nothing at all. Both options exist on Linux only.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * write_timeout_s)
        )
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def serve(
    settings: Settings,
    run: Run = run_worker,
    read_again: Callable[[], Settings] | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT, or a SIGHUP for a closed terminal; at others the settings are read again.

    Args:
        settings: of the server.
        run: what each worker process runs.
        read_again: returns the settings as they are found when SIGHUP comes; None finds the same ones.

    Raises:
        CannotListen: the address is taken or does not exist.
        ServingFailed: the model cannot be loaded.
    """
    sockets = listen(settings.host, settings.port, settings.write_timeout_s)
    configure_logging(settings.log_level, settings.log_format)
    warn_of_exposure(settings)
    models = make_models(settings, run)
    reloading = Reloading(settings, models.metrics, read_again)
    hosts = default_hosts(settings)
    given = settings.model_copy(update={"allowed_hosts": hosts})
    app = create_app(given, models, reloading, open_tracing())
    admin = _open_admin(settings, models, reloading)
    server = DrainingServer(uvicorn_config(app), models, reloading, admin)
    admin_sockets = admin[1] if admin is not None else []
    log = structlog.get_logger("star.server")
    log.info(
        "listening",
        url=_url(settings.host, sockets),
        model=", ".join(settings.model),
        **({"admin": _url(settings.admin_host, admin_sockets)} if admin_sockets else {}),
    )
    try:
        server.run(sockets=sockets)
    finally:
        for bound in [*sockets, *admin_sockets]:
            bound.close()
    if models.fatal is not None:
        raise ServingFailed(models.fatal)
    log.info("stopped")


def check_models(models: list[str]) -> None:
    """Refuse models of which none exists, before anything is started; with one that does, the server can serve.

    Raises:
        star_model.errors.ModelNotFoundError: there is none; the text is about the first.
    """
    failures = []
    for model in models:
        try:
            check_model(model)
        except ModelNotFoundError as error:
            failures.append(error)
    if len(failures) == len(models):
        raise failures[0]


def _open_admin(
    settings: Settings, models: ServedModels, reloading: Reloading
) -> tuple[FastAPI, list[socket.socket]] | None:
    """Return app and sockets of the port for administrators; None if there is to be none.

    Raises:
        SettingsFileError: the key cannot be read, or is no good.
        CannotListen: the address is taken or does not exist.
    """
    if settings.admin_port is None:
        return None
    app = create_admin_app(models, reloading, read_admin_key(settings))
    sockets = listen(
        settings.admin_host, settings.admin_port, settings.write_timeout_s, prefix="admin-"
    )
    return app, sockets


def _url(host: str, sockets: list[socket.socket]) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{sockets[0].getsockname()[1]}"
