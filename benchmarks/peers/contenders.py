"""The contenders as processes: how each is started, asked for an image, weighed and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.server_process import numbers_of

ROOT = Path(__file__).parent.parent.parent
PEERS = ROOT / "build" / "peers" / "bin"
"""Programs of the environment that ``make peers`` installs."""

READY_SECONDS = 240.0
_MARK = "PEERS_RUN"


@dataclass(frozen=True)
class Contender:
    """A way to serve the engine.

    Args:
        title: in the tables.
        command: what is started; ``{port}``, ``{engine}`` and ``{log}`` are filled in.
        path: takes requests for an image.
        own_environment: its packages are those of :data:`PEERS`.
        streams: the requests ask for a stream with previews.
    """

    title: str
    command: tuple[str, ...]
    path: str
    own_environment: bool = True
    streams: bool = False

    @property
    def installed(self) -> bool:
        """True if it can be started."""
        return Path(self.command[0]).exists()


def _module(name: str, python: str | Path) -> tuple[str, ...]:
    return str(python), "-m", f"benchmarks.peers.{name}", "{port}", "{engine}", "{log}"


_STAR = _module("star_server", sys.executable)
CONTENDERS = {
    "star": Contender("star-server", _STAR, "/generate", own_environment=False),
    "previews": Contender(
        "star-server, streams", _STAR, "/generate", own_environment=False, streams=True
    ),
    "fastapi": Contender(
        "FastAPI", _module("plain_fastapi", sys.executable), "/generate", own_environment=False
    ),
    "litserve": Contender("LitServe", _module("litserve_server", PEERS / "python"), "/predict"),
    "bentoml": Contender(
        "BentoML",
        (
            *(str(PEERS / "bentoml"), "serve", "benchmarks.peers.bentoml_service:Generate"),
            *("--host", "127.0.0.1", "--port", "{port}"),
        ),
        "/generate",
    ),
    "ray": Contender("Ray Serve", _module("ray_serve", PEERS / "python"), "/"),
}
"""By the names that the command line takes."""


@dataclass(frozen=True)
class Running:
    """A contender that has painted its first image.

    Attributes:
        contender: which.
        url: where it listens.
        log: of what its engine paints.
        mark: in the environment of each of its processes.
    """

    contender: Contender
    url: str
    log: Path
    mark: str

    def processes(self) -> list[int]:
        """Return the ids of all its processes."""
        wanted = f"{_MARK}={self.mark}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def cpu_seconds(self) -> float:
        """Return the processor time that its processes have used so far, those that have ended left out."""
        ticks = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                # The name, in parentheses, may hold spaces; the times of user and system are fields 14 and 15.
                fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Return the bytes that all its processes hold, shared pages counted once."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                total += 1024 * numbers_of(Path(f"/proc/{pid}/smaps_rollup")).get("Pss", 0)
        return total


@contextlib.contextmanager
def running(contender: Contender, engine: str, latency_ms: int) -> Iterator[Running]:
    """Start a contender, wait for its first image, and end it with all its processes.

    Args:
        contender: which.
        engine: see :func:`benchmarks.peers.painters.open_painter`.
        latency_ms: what a request may take, for those that are told.

    Raises:
        RuntimeError: it paints nothing; the text has its last answer and what it has written.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Ray's sockets lie in its temporary folder, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="peers") as name:
        folder = Path(name)
        one = Running(contender, f"http://127.0.0.1:{port}", folder / "painted", folder.name)
        values = {"port": str(port), "engine": engine, "log": str(one.log)}
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [part.format(**values) for part in contender.command],
                cwd=folder,
                env=_environment(one, engine, latency_ms),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_for_image(one, process, folder / "output")
            yield one
        finally:
            _end(one, process)


def _environment(one: Running, engine: str, latency_ms: int) -> Mapping[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "STAR_", "BENTOML_"))}
    return {
        **kept,
        _MARK: one.mark,
        "HOME": str(one.log.parent),
        "PYTHONPATH": str(ROOT),
        "PEERS_ENGINE": engine,
        "PEERS_LOG": str(one.log),
        "PEERS_LATENCY_MS": str(latency_ms),
        "BENTOML_DO_NOT_TRACK": "True",
        "RAY_TMPDIR": str(one.log.parent),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Of a machine that others use too, where it may be slow to start.
        "RAY_worker_register_timeout_seconds": "240",
        "RAY_raylet_start_wait_time_s": "240",
    }


def _wait_for_image(one: Running, process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait for the first image, which warms the contender up."""
    body, accept = {"prompt": "a fox", "seed": 0}, {"accept": "image/png"}
    answer = "no answer"
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            found = httpx.post(one.url + one.contender.path, json=body, headers=accept, timeout=60)
            if found.is_success:
                return
            answer = f"{found.status_code} {found.text}"
        time.sleep(0.2)
    said = output.read_text("utf-8", "replace")
    raise RuntimeError(f"{one.contender.title} paints nothing: {answer}\n{said[-3000:]}")


def _end(one: Running, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    for pid in one.processes():  # nothing, unless it leaves processes behind
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(10)
