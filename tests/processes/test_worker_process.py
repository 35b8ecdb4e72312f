"""A worker process while it loads, and one that its parent cannot take care of."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest

from server.dispatch.worker_process import WorkerProcess
from server.messages import FromWorker, Heartbeat, Loading
from server.model_settings import WorkerSettings
from server.settings import Settings
from server.worker.main import worker_main
from tests.server.processes import wait_until
from tests.server.service import short_of_threads


def run_until_the_pipe_ends(connection: Connection, settings: WorkerSettings, index: int) -> None:
    """Do nothing; called in the child process."""
    connection.poll(None)


def load_without_end(
    settings: WorkerSettings, index: int, send: Callable[[FromWorker], None]
) -> Any:
    """Load nothing, until the process is killed; a :data:`server.worker.main.Load`."""
    threading.Event().wait()


def run_without_end(connection: Connection, settings: WorkerSettings, index: int) -> None:
    """Be a worker that never has its model; called in the child process."""
    worker_main(connection, settings, index, load_without_end)


def test_a_worker_beats_while_it_loads() -> None:
    """By that its parent tells a long load from a process that is stopped."""
    heard: list[FromWorker] = []
    worker = WorkerProcess(Settings().for_worker(), 0, heard.append, run_without_end)
    try:
        wait_until(lambda: sum(isinstance(message, Heartbeat) for message in heard) >= 2)
        assert Loading("loading") in heard
        assert not any(message.idle for message in heard if isinstance(message, Heartbeat))
    finally:
        worker.kill()
        assert worker.join(60)


@pytest.mark.parametrize("name", ["worker-outbox", "worker-inbox"])
def test_it_ends_where_there_is_no_thread_to_speak_to_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nobody would ever end it, and its successor would not find room for the model beside it."""
    heard: list[FromWorker] = []
    short_of_threads(monkeypatch, name)
    before = set(multiprocessing.active_children()), threading.active_count()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        WorkerProcess(Settings().for_worker(), 0, heard.append, run_until_the_pipe_ends)
    assert set(multiprocessing.active_children()) == before[0]
    assert heard == [], "its launch has failed, so there is no worker that could end"
    for thread in threading.enumerate():
        if thread.name == "worker-outbox":
            thread.join(20)
    assert threading.active_count() == before[1]
