"""The processes of a live server, as Linux shows them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="finds processes in /proc"
)


def workers_of(pid: int) -> list[int]:
    """The process ids of a server's workers, and of its decoders, the oldest first."""
    children = [
        int(child)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for child in _read(thread / "children").split()
    ]
    ours = [child for child in children if b"spawn_main" in _read(Path(f"/proc/{child}/cmdline"))]
    return sorted(ours, key=_started)


def _started(pid: int) -> int:
    """Ticks from the start of the system to that of a process: ids begin anew, so they tell no age."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()
    return int(fields[19]) if fields else 0


def _read(file: Path) -> bytes:
    """Return a file of ``/proc``; nothing if what it is about has just ended."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def alive(pid: int) -> bool:
    """Whether a process runs, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def stopped(pids: Iterable[int]) -> Iterator[None]:
    """Hold processes where they are; they go on in the end, whatever happens meanwhile."""
    pids = list(pids)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def resident_bytes(pid: int) -> int:
    """The memory that a process has in use."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return 1024 * int(kilobytes)


def wait_until(condition: Callable[[], bool], seconds: float = 180.0) -> None:
    """Wait for what another process brings about; the patience is for busy machines."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
