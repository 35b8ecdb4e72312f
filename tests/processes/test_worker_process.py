"""A worker process that its parent cannot take care of."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.connection import Connection

import pytest

from server.dispatch.worker_process import WorkerProcess
from server.messages import FromWorker
from server.settings import Settings, WorkerSettings


def run_until_the_pipe_ends(connection: Connection, settings: WorkerSettings, index: int) -> None:
    """Do nothing; called in the child process."""
    connection.poll(None)


@pytest.mark.parametrize("name", ["worker-outbox", "worker-inbox"])
def test_it_ends_where_there_is_no_thread_to_speak_to_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nobody would ever end it, and its successor would not find room for the model beside it."""
    start = threading.Thread.start
    heard: list[FromWorker] = []

    def short(self: threading.Thread) -> None:
        if self.name == name:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", short)
    before = set(multiprocessing.active_children()), threading.active_count()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        WorkerProcess(Settings().for_worker(), 0, heard.append, run_until_the_pipe_ends)
    assert set(multiprocessing.active_children()) == before[0]
    assert heard == [], "its launch has failed, so there is no worker that could end"
    for thread in threading.enumerate():
        if thread.name == "worker-outbox":
            thread.join(20)
    assert threading.active_count() == before[1]
