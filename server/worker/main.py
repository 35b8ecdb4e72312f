"""Entry point of the worker process: loads the model and runs the main loop.

The parent can tell a dead worker, a hanging one and a long step apart: the worker reports each phase of its start,
and a thread of its own sends a heartbeat every second from the first line on, with the time at which the main loop
last came round. The worker ends when it is told to, when its process cannot recover, and when its parent is gone.

Torch is imported after the first heartbeat, since its import alone may take many seconds.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import structlog

from server.child_process import obey_parent_alone
from server.logs import configure_logging, set_log_level
from server.messages import (
    Devices,
    FromWorker,
    Heartbeat,
    LoadFailed,
    Loading,
    LogFrom,
    ModelInfo,
    Ready,
    ToWorker,
)
from server.model_settings import WorkerSettings
from server.setting_values import label_of
from server.worker.engine_protocol import SteppingEngine
from server.worker.scheduler import Policy, Scheduler
from star_model.errors import StarError

HEARTBEAT_SECONDS = 1.0

Send = Callable[[FromWorker], None]
Load = Callable[[WorkerSettings, int, Send], tuple[SteppingEngine[Any, Any], ModelInfo, Policy]]
"""Loads the engine of the worker of an index, and reports devices and phases meanwhile."""


class Outbox:
    """The sending end of the connection, shared by the main loop and the heartbeat.

    Args:
        connection: to the parent.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: FromWorker) -> None:
        """Send a message. If the parent is gone there is nobody to work for, and the process ends."""
        with self._lock:
            try:
                self._connection.send(message)
            except OSError:
                os._exit(0)


class Pulse:
    """Sends heartbeats from a thread of its own.

    Args:
        outbox: takes them.

    Attributes:
        state: returns the heartbeat to send; replaced once the main loop runs. While the model loads, ``turned_at``
            is the start of the load.
        memory: returns bytes of device memory allocated and reserved.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        loading = Heartbeat(turned_at=time.monotonic(), idle=False)
        self.state: Callable[[], Heartbeat] = lambda: loading
        self.memory: Callable[[], tuple[int, int]] = lambda: (0, 0)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        while True:
            allocated, reserved = self.memory()
            beat = replace(self.state(), memory_allocated=allocated, memory_reserved=reserved)
            self._outbox.send(beat)
            time.sleep(HEARTBEAT_SECONDS)


def load_model_engine(
    settings: WorkerSettings, index: int, send: Send
) -> tuple[SteppingEngine[Any, Any], ModelInfo, Policy]:
    """Import torch, and load and warm the model of the settings; a :data:`Load`.

    Raises:
        star_model.errors.StarError: the text says what is missing or damaged, and what to do.
    """
    from server.worker.loading import count_devices, load_engine

    send(Devices(count_devices(settings.device)))
    return load_engine(settings, lambda phase: send(Loading(phase)), index=index)


def worker_main(
    connection: Connection, settings: WorkerSettings, index: int, load: Load = load_model_engine
) -> None:
    """Run a worker until its end.

    Args:
        connection: duplex, to the parent.
        settings: what to load and how to run it.
        index: of this worker, from 0.
        load: see :data:`Load`.
    """
    obey_parent_alone()
    outbox = Outbox(connection)
    pulse = Pulse(outbox)
    outbox.send(Loading("loading"))
    configure_logging(settings.log_level, settings.log_format)
    structlog.contextvars.bind_contextvars(worker=index)
    if settings.models > 1 or settings.swap:
        structlog.contextvars.bind_contextvars(model=label_of(settings.model))
    if settings.swap:
        structlog.contextvars.bind_contextvars(swap=settings.swap)
    inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, inbox), name="inbox", daemon=True).start()
    structlog.get_logger("star.worker").info("loading", step="importing PyTorch")
    try:
        from server.worker.engine_loop import EngineLoop

        engine, info, policy = load(settings, index, outbox.send)
        loop = EngineLoop(
            engine, Scheduler(policy), inbox, outbox.send, text_cache=settings.text_cache
        )
    except Exception as error:
        outbox.send(LoadFailed(_explain(error)))
        return
    pulse.state, pulse.memory = lambda: loop.state, engine.memory
    outbox.send(Ready(info))
    loop.run()


def _receive(connection: Connection, inbox: queue.SimpleQueue[ToWorker]) -> None:
    """Empty the connection as it fills, so that the parent's sends never block; exit with the parent."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = connection.recv()
            # Heard at once, also while the model loads or a step is long.
            if isinstance(message, LogFrom):
                set_log_level(message.level)
            else:
                inbox.put(message)
    os._exit(0)


def _explain(error: Exception) -> str:
    """Return a sentence for the user; log the traceback of an error that is not one of ours."""
    if isinstance(error, StarError):
        return str(error) or repr(error)
    structlog.get_logger("star.worker").error("the model cannot be loaded", exc_info=error)
    return f"The model cannot be loaded ({type(error).__name__}: {str(error) or repr(error)})"
