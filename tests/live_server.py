"""The real server, as a process of its own on a free port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class LiveServer:
    """A server that has said it is ready.

    Attributes:
        port: on 127.0.0.1.
        process: to be signalled, or watched.
        log: the file with everything it has written.
    """

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>``."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def written(self) -> str:
        """What it has written so far."""
        return self.log.read_text("utf-8", "replace")


@contextlib.contextmanager
def running_server(
    *flags: str,
    log: Path,
    env: Mapping[str, str] | None = None,
    ready_within: float = 120.0,
    stop_within: float = 60.0,
) -> Iterator[LiveServer]:
    """Start ``star-server serve``, wait for ``/readyz``, and stop it in the end as an operator would.

    Args:
        flags: beside ``--port``.
        log: takes the server's output.
        env: variables beside those of this process.
        ready_within: seconds it may take to be ready.
        stop_within: seconds it may take to leave after SIGTERM.

    Raises:
        RuntimeError: it left, or was not ready in time; the message ends with its log.
        subprocess.TimeoutExpired: it did not leave after SIGTERM; it has been killed.
    """
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = LiveServer(port, process, log)
    try:
        wait_until_ready(server, ready_within)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(stop_within)
        finally:
            # The worker too, whatever became of the server: a test leaves no process behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(server: LiveServer, seconds: float) -> None:
    """Ask ``/readyz`` until it answers 200.

    Raises:
        RuntimeError: the process left, or ``seconds`` have passed; the message ends with its log.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(
                f"the server left with {server.process.returncode}:\n{server.written}"
            )
        try:
            with urllib.request.urlopen(f"{server.url}/readyz", timeout=5):
                return
        except urllib.error.HTTPError as refusal:
            refusal.close()
        except OSError:
            pass  # nothing listens yet
        time.sleep(0.1)
    raise RuntimeError(f"not ready after {seconds:g} s:\n{server.written}")


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
