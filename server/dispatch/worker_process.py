"""A worker process as its parent sees it: start, send, receive, kill. Nothing here blocks the event loop."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pickle import UnpicklingError
from typing import Protocol

from server.child_process import group_signals_blocked
from server.messages import Exited, FromWorker, Shutdown, ToWorker
from server.model_settings import WorkerSettings


class Worker(Protocol):
    """A running worker, wherever it runs."""

    def send(self, message: ToWorker) -> None:
        """Queue a message; never blocks, and is ignored by a worker that is gone."""
        ...

    def kill(self) -> None:
        """End the worker at once. ``Exited`` follows."""
        ...

    def join(self, timeout: float) -> bool:
        """Wait until the worker is gone, for ``timeout`` seconds at most; blocks. Returns whether it is."""
        ...


Launch = Callable[[int, Callable[[FromWorker], None]], Worker]
"""Starts the worker of an index. Its second argument is called, in any thread, with each message; the last is
``Exited``."""


Run = Callable[[Connection, WorkerSettings, int], None]
"""Runs the worker of an index until its end, in the child process; picklable."""


def run_worker(connection: Connection, settings: WorkerSettings, index: int) -> None:
    """Run the worker; a :data:`Run`. The child process alone imports the worker's modules."""
    from server.worker.main import worker_main

    worker_main(connection, settings, index)


class WorkerProcess:
    """A worker in a process of its own.

    Args:
        settings: what it loads and how it runs.
        index: of the worker.
        deliver: called in a thread with each message; the last is ``Exited``.
        run: see :data:`Run`.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        index: int,
        deliver: Callable[[FromWorker], None],
        run: Run = run_worker,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe(duplex=True)
        self._process = context.Process(
            target=run, args=(theirs, settings, index), name=f"star-worker-{index}", daemon=True
        )
        try:
            with group_signals_blocked():
                self._process.start()
        except BaseException:
            self._connection.close()
            raise
        finally:
            theirs.close()
        # multiprocessing joins its children at exit, and the worker ignores SIGTERM: kill it before that.
        atexit.register(self.kill)
        self._deliver = deliver
        self._outbox: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        self._gone = threading.Event()
        try:
            threading.Thread(target=self._send, name="worker-outbox", daemon=True).start()
            threading.Thread(target=self._receive, name="worker-inbox", daemon=True).start()
        except RuntimeError:  # no more threads; nobody would hear the worker, nor ever end it
            self.kill()
            self._process.join()
            self._release()
            raise

    @property
    def pid(self) -> int | None:
        """Process id."""
        return self._process.pid

    def send(self, message: ToWorker) -> None:
        self._outbox.put(message)

    def kill(self) -> None:
        with contextlib.suppress(ValueError):  # already closed
            self._process.kill()

    def join(self, timeout: float) -> bool:
        return self._gone.wait(timeout)

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while (message := self._outbox.get()) is not None:
                self._connection.send(message)

    def _receive(self) -> None:
        with contextlib.suppress(EOFError, OSError, UnpicklingError):
            while True:
                message = self._connection.recv()
                self._deliver(message)
        # The pipe has ended, so nothing more can come: give the process a moment to exit by itself.
        self._process.join(2.0)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        code = self._process.exitcode or 0
        self._release()
        self._gone.set()
        self._deliver(Exited(_exit_reason(code), killed=code < 0))

    def _release(self) -> None:
        """Give back what a process that has ended still holds, and end the thread that sends to it."""
        self._outbox.put(None)
        atexit.unregister(self.kill)
        self._process.close()
        self._connection.close()


def stop(worker: Worker, timeout: float) -> None:
    """Ask a worker to end, and kill it if it does not; blocks.

    Args:
        worker: any.
        timeout: seconds that it may take by itself.
    """
    worker.send(Shutdown())
    if not worker.join(timeout):
        worker.kill()
        worker.join(timeout)


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name} (possibly out of memory)" if name == "SIGKILL" else name
