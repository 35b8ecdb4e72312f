"""Makes one fault happen in one phase of a real server's work, and notes what each caller sees."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.faults.callers import (
    answers_to,
    ask,
    ask_for_stream,
    send_hostile_bodies,
    silent_clients,
    trickle,
    upload,
)
from tests.faults.control import Control, Point
from tests.faults.matrix import FaultName, Phase, Role
from tests.live_server import ROOT, LiveServer, free_port, wait_until_ready
from tests.server.processes import wait_until, workers_of

CONNECTIONS = 30
SETTINGS = {
    "slots": 4, "log_format": "json", "max_connections": CONNECTIONS, "header_timeout_s": 3,
    "body_timeout_s": 3, "restart_backoff_s": 1e-5, "drain_timeout_s": 300,
    "max_body_bytes": 4 << 20, "decode_processes": 1,
}  # fmt: skip
PATIENT = {"heartbeat_timeout_s": 300, "stall_timeout_s": 600, "load_timeout_s": 600}
STRICT = {"heartbeat_timeout_s": 5, "stall_timeout_s": 10, "load_timeout_s": 30}
"""Timeouts of a server whose worker is to be replaced because of them. Elsewhere the cells themselves, which hold the
worker wherever they need it, must not look like a hang on a slow machine."""

NOTICED_BY_TIME: tuple[FaultName, ...] = ("SIGSTOP", "hang")
OF_THE_WORKER: tuple[FaultName, ...] = ("SIGKILL", *NOTICED_BY_TIME, "out of memory")

_POINTS: dict[Phase, Point] = {
    "encoding": "encode",
    "painting": "paint",
    "decoding": "decode",
    "streaming": "stream",
    "draining": "paint",
}


@dataclass
class SlowServer:
    """A running server of :mod:`tests.faults.slow_server`.

    Attributes:
        live: the server process.
        control: where its worker stops.
    """

    live: LiveServer
    control: Control

    @property
    def url(self) -> str:
        return self.live.url

    @property
    def worker(self) -> int:
        """Id of the worker process; the first child, as decoders come later."""
        return workers_of(self.live.process.pid)[0]

    @property
    def phase(self) -> str:
        phase: str = httpx.get(f"{self.url}/startupz", timeout=60).json()["workers"][0]["phase"]
        return phase

    def is_ready(self) -> bool:
        """Whether ``/readyz`` says so."""
        return httpx.get(f"{self.url}/readyz", timeout=60).status_code == 200

    def waiting(self) -> bool:
        """Whether a request waits that has not been begun."""
        return "star_requests_waiting 1.0" in httpx.get(f"{self.url}/metrics", timeout=60).text

    def make_whole(self) -> None:
        """Wait until the server paints images again, having removed whatever stops it."""
        self.control.release_all()
        wait_until(lambda: self.is_ready() and ask(self.url) == "200")


@contextlib.contextmanager
def slow_server(directory: Path, fault: FaultName) -> Iterator[SlowServer]:
    """Start a server for cells of this fault, and kill what is left of it in the end."""
    (directory / "control").mkdir(parents=True)
    port, log = free_port(), directory / "log"
    timeouts = STRICT if fault in NOTICED_BY_TIME else PATIENT
    settings = {**SETTINGS, **timeouts, "port": port, "model": str(directory / "control")}
    command = [sys.executable, "-m", "tests.faults.slow_server", json.dumps(settings)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    live = LiveServer(port, process, log)
    try:
        wait_until_ready(live, 240)
        yield SlowServer(live, Control(directory / "control"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass
class Seen:
    """What happened in a cell.

    Attributes:
        outcomes: of each role.
        seconds: from the fault, or its end where it is lifted, until the server painted images again, or had ended.
    """

    outcomes: dict[Role, str] = field(default_factory=dict)
    seconds: float = 0.0


class Cell:
    """One fault in one phase.

    Args:
        server: whole; a draining one has ended afterwards, any other is whole again.
        fault: to be made.
        phase: in which.
    """

    def __init__(self, server: SlowServer, fault: FaultName, phase: Phase) -> None:
        self._server = server
        self._control = server.control
        self._fault = fault
        self._phase = phase
        self._seen = Seen()
        self._pool = ThreadPoolExecutor(4)
        self._answers: dict[Role, Future[str]] = {}

    def run(self) -> Seen:
        """Make it happen; return what was seen."""
        with self._pool:
            try:
                self._enter_phase()
                since = self._harm_worker() if self._fault in OF_THE_WORKER else self._harm_server()
                self._end(since)
            finally:
                self._control.release_all()
        return self._seen

    def _note(self, role: Role, seen: str) -> None:
        self._seen.outcomes[role] = seen

    # The phase.

    def _enter_phase(self) -> None:
        """Bring the server into the phase, and hold it there."""
        match self._phase:
            case "loading":
                self._restart_worker()
            case "idle":
                pass
            case phase:
                self._begin_request(_POINTS[phase])
        if self._phase == "draining":
            self._server.live.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not self._server.is_ready())

    def _restart_worker(self) -> None:
        """Kill the worker, and hold its successor while it loads."""
        self._control.hold("load")
        os.kill(self._server.worker, signal.SIGKILL)
        self._wait_until_loading()

    def _wait_until_loading(self) -> None:
        wait_until(lambda: self._control.arrived("load") and self._server.phase == "warming")

    def _begin_request(self, point: Point) -> None:
        url, begun = self._server.url, threading.Event()
        self._control.hold(point)
        if self._phase == "streaming":
            answer = self._pool.submit(ask_for_stream, url, begun)
            wait_until(begun.is_set)
        else:
            answer = self._pool.submit(ask, url)
        self._answers["under way"] = answer
        wait_until(lambda: self._control.arrived(point))
        if self._fault in OF_THE_WORKER:
            self._answers["waiting"] = self._pool.submit(ask, url)
            wait_until(self._server.waiting)

    def _go_on(self) -> None:
        """Let the worker go on from where the phase holds it."""
        if point := _POINTS.get(self._phase):
            self._control.release(point)

    # Faults of the worker.

    def _harm_worker(self) -> float:
        """Make the fault; return when."""
        control, server = self._control, self._server
        if self._phase == "draining":
            self._note("new", ask(server.url))
        if self._fault == "out of memory":
            return self._exhaust_memory()
        if self._phase != "draining":
            control.hold("load")  # so that there is time to ask while the worker starts again
        worker, since = server.worker, time.monotonic()
        if self._fault != "hang":  # which is what the hold already is
            number = signal.SIGKILL if self._fault == "SIGKILL" else signal.SIGSTOP
            os.kill(worker, number)
            self._go_on()
        if self._phase == "draining":
            return since
        wait_until(lambda: worker not in workers_of(server.live.process.pid))
        self._go_on()
        self._wait_until_loading()
        self._note("new", ask(server.url))
        control.release("load")
        return since

    def _exhaust_memory(self) -> float:
        if self._phase == "loading":
            self._note("new", ask(self._server.url))
        point = _POINTS.get(self._phase, "load")
        self._control.fail(point)
        since = time.monotonic()
        self._control.release(point)
        if self._phase not in ("loading", "draining"):
            self._answers["under way"].result()
            self._note("new", ask(self._server.url))
        return since

    # Faults around the workers.

    def _harm_server(self) -> float:
        """Make the fault, ask, lift it; return when it was lifted."""
        faults: dict[FaultName, Callable[[], contextlib.AbstractContextManager[Future[str] | None]]]
        faults = {
            "disk full": self._disk_full,
            "descriptors": self._no_descriptors,
            "silent clients": self._silent_clients,
            "slow clients": self._slow_client,
            "hostile bodies": self._hostile_bodies,
        }
        with faults[self._fault]() as clients:
            if self._phase not in ("loading", "draining"):
                self._go_on()
            self._note("new", ask(self._server.url))
            if clients is not None:
                self._note("the clients", clients.result())
            self._go_on()
            if answer := self._answers.get("under way"):
                answer.result()
        since = time.monotonic()
        self._control.release("load")
        return since

    @contextlib.contextmanager
    def _limit(self, kind: int, soft: int) -> Iterator[None]:
        """Set a soft limit of the server process for a while."""
        pid = self._server.live.process.pid
        before = resource.prlimit(pid, kind)
        resource.prlimit(pid, kind, (soft, before[1]))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, kind, before)

    @contextlib.contextmanager
    def _disk_full(self) -> Iterator[None]:
        with self._limit(resource.RLIMIT_FSIZE, 0):
            self._note("upload", upload(self._server.url))
            yield

    @contextlib.contextmanager
    def _no_descriptors(self) -> Iterator[None]:
        used = len(os.listdir(f"/proc/{self._server.live.process.pid}/fd"))
        limit = self._limit(resource.RLIMIT_NOFILE, used + 8)
        with limit, silent_clients(self._server.live.port, CONNECTIONS - 5):
            yield

    @contextlib.contextmanager
    def _silent_clients(self) -> Iterator[Future[str]]:
        with silent_clients(self._server.live.port, 2 * CONNECTIONS) as clients:
            yield self._pool.submit(answers_to, clients)

    @contextlib.contextmanager
    def _slow_client(self) -> Iterator[Future[str]]:
        yield self._pool.submit(trickle, self._server.live.port)

    @contextlib.contextmanager
    def _hostile_bodies(self) -> Iterator[None]:
        self._note("the clients", send_hostile_bodies(self._server.url))
        yield

    # The end.

    def _end(self, since: float) -> None:
        """Wait until the server is whole again, or has ended, and collect what was answered."""
        if self._phase == "draining":
            self._note("the server", f"exit code {self._server.live.process.wait(300)}")
        else:
            self._server.make_whole()
        self._seen.seconds = time.monotonic() - since
        for role, answer in self._answers.items():
            self._note(role, answer.result())
