"""What every child process of the server owes its parent: to obey it alone, and not to outlive it."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker

_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a service manager's SIGTERM and a closed terminal's SIGHUP reach the whole process group; the parent
decides when its children end."""

_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def group_signals_blocked() -> Iterator[None]:
    """Block, for a process that is started meanwhile, the signals that only its parent obeys.

    It inherits the mask. Without it, a Ctrl-C ends the child while it imports, before it can ignore the signal.
    """
    resource_tracker.ensure_running()  # its own start would unblock them again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent_alone() -> None:
    """Ignore the signals of the process group, and end with the parent. Call it first in the child process.

    A child that runs notices the end of its pipe. One that is stopped, or hangs in a library, does not: on Linux the
    kernel kills it. To the kernel the parent is the thread that started the child, so that thread must live as long
    as the child is needed.
    """
    for number in _GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent.pid:  # it ended before the kernel was asked
        os._exit(0)
