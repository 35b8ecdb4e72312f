"""A server of our own on a free port, for the benchmarks that ask one; and what Linux says of a process."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

READY_SECONDS = 600.0


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(log: Path | None = None, **options: object) -> Iterator[tuple[int, int]]:
    """Start ``star-server serve``; yields its port and its process id once it is ready.

    Args:
        log: takes what it writes; the terminal does if not given.
        options: its flags, with ``_`` for ``-``.

    Raises:
        SystemExit: the server has ended, or takes too long.
    """
    port = free_port()
    options = {"port": port, "log_level": "error", **options}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    with contextlib.nullcontext() if log is None else log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "server", "serve", *flags], stdout=output, stderr=output
        )
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}/readyz", process)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=30).status_code == 200:
                return
        time.sleep(0.1)
    sys.exit(
        f"The server is not ready after {READY_SECONDS:.0f} s."
        if process.poll() is None
        else "The server ended."
    )


def numbers_of(file: Path) -> dict[str, int]:
    """The lines of a file of ``/proc`` that are a name and a number.

    Raises:
        OSError: the process has ended, or is another user's.
    """
    pairs = (line.split() for line in file.read_text("utf-8").splitlines())
    return {
        pair[0].rstrip(":"): int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdecimal()
    }
