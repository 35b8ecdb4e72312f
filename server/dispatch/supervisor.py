"""Keeps one worker running: start, listen, replace when it is silent or hangs, start again with backoff."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from server.dispatch.worker_process import Launch, Worker, stop
from server.messages import (
    Devices,
    Exited,
    FromWorker,
    Heartbeat,
    LoadFailed,
    Loading,
    ModelInfo,
    Ready,
    ToWorker,
    Work,
)

Phase = Literal[
    "starting",
    "loading",
    "capturing",
    "warming",
    "ready",
    "restarting",
    "draining",
    "failed",
    "stopped",
]

_LONGEST_BACKOFF = 60.0
_WATCH_SECONDS = 0.5
_STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Patience:
    """How long a worker may be what; the fields are those of :class:`server.settings.Settings`, in seconds."""

    heartbeat_timeout_s: float = 30.0
    stall_timeout_s: float = 600.0
    restart_backoff_s: float = 1.0


@dataclass(frozen=True)
class Listeners:
    """Whom a supervisor tells what; all are called on the event loop.

    Args:
        devices: for how many workers the machine has devices.
        ready: a worker is warm.
        lost: a worker that was warm, or was to be again, has ended; it will be started again.
        work: what the worker says of jobs, and how long its work took.
    """

    devices: Callable[[int], None]
    ready: Callable[[ModelInfo], None]
    lost: Callable[[], None]
    work: Callable[[Work], None]


class Supervisor:
    """The life of one worker, as the event loop sees it.

    Attributes:
        index: of the worker.
        phase: where it is in its life; never ``draining``, of which a supervisor knows nothing.
        model: what is loaded, or was before the worker ended; None until the first load.
        fatal: why the model has never been loaded, once that has been tried.
        worker: the running one; None between two.
        beat: its latest heartbeat.
        heard_at: when it was last heard of.

    Args:
        index: of the worker, from 0.
        launch: starts a worker.
        patience: see :class:`Patience`.
        listeners: see :class:`Listeners`.
        clock: seconds, monotonic, shared with the worker.
    """

    def __init__(
        self,
        index: int,
        launch: Launch,
        patience: Patience,
        listeners: Listeners,
        clock: Callable[[], float],
    ) -> None:
        self.index = index
        self._launch = launch
        self._patience = patience
        self._tell = listeners
        self._clock = clock
        self.phase: Phase = "starting"
        self.phase_since = clock()
        self.model: ModelInfo | None = None
        self.fatal: str | None = None
        self.worker: Worker | None = None
        self.beat: Heartbeat | None = None
        self.heard_at = clock()
        self._exited = asyncio.Event()
        self._exit_reason = ""
        self._generation = 0
        self._launch_at = clock()
        self._load_seconds = 10.0  # a guess until the first load
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger("star.engine").bind(worker=index)

    @property
    def alive(self) -> bool:
        """Whether the tasks that keep a worker running are running themselves."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    @property
    def seconds_to_ready(self) -> float:
        """Until the worker is likely to be ready, by how long the last load took."""
        return max(0.0, self._launch_at + self._load_seconds - self._clock())

    def send(self, message: ToWorker) -> None:
        """Pass a message to the worker; without one it is dropped."""
        if self.worker is not None:
            self.worker.send(message)

    def start(self) -> None:
        """Begin; returns before there is a worker."""
        self._tasks = [
            asyncio.create_task(self._supervise(), name="supervise"),
            asyncio.create_task(self._watch(), name="watch"),
        ]

    async def close(self) -> None:
        """End the worker and everything here."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        worker, self.worker = self.worker, None
        self._generation += 1  # whatever it still says is nobody's business
        if worker is not None:
            if self.phase != "ready":  # it loads, and would not hear of the end before that is done
                worker.kill()
            await asyncio.to_thread(stop, worker, _STOP_SECONDS)
        self._enter("stopped")

    async def _supervise(self) -> None:
        failures = 0
        while True:
            await self._start_worker()
            await self._exited.wait()
            self.worker, self.beat = None, None
            now = self._clock()
            failures = 1 if now - self._launch_at > _LONGEST_BACKOFF else failures + 1
            backoff = min(self._patience.restart_backoff_s * 2 ** (failures - 1), _LONGEST_BACKOFF)
            if self.model is None:
                # Without another worker that is ready, this is the end; with one, time may bring help.
                backoff = _LONGEST_BACKOFF
                self.fatal = self.fatal or f"The model could not be loaded: {self._exit_reason}."
                self._log.warning("the model could not be loaded", reason=self._exit_reason)
                self._enter("failed")
            else:
                self._launch_at = now + backoff
                self._log.error("the worker is gone", reason=self._exit_reason)
                self._enter("restarting")
                self._tell.lost()
            await asyncio.sleep(backoff)

    async def _start_worker(self) -> None:
        self._generation += 1
        self._exited.clear()
        self._exit_reason = ""
        self._launch_at = self.heard_at = self._clock()
        loop, generation = asyncio.get_running_loop(), self._generation
        launched = threading.Event()

        def deliver(message: FromWorker) -> None:
            launched.wait()  # a worker that is quick must not be ready before there is one to send to
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(self._hear, generation, message)

        launching = asyncio.ensure_future(asyncio.to_thread(self._launch, self.index, deliver))
        try:
            self.worker = await asyncio.shield(launching)
        except asyncio.CancelledError:
            self.worker = await launching  # so that close() finds it and ends it
            raise
        finally:
            launched.set()

    async def _watch(self) -> None:
        """Kill a worker that is silent, or whose engine hangs in one step."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            worker, beat, now = self.worker, self.beat, self._clock()
            if worker is None or beat is None:
                continue
            if now - self.heard_at > self._patience.heartbeat_timeout_s:
                self._exit_reason = f"it was silent for {now - self.heard_at:.0f} s"
            elif not beat.idle and now - beat.turned_at > self._patience.stall_timeout_s:
                self._exit_reason = f"its engine hung in one step for {now - beat.turned_at:.0f} s"
            else:
                continue
            self.beat = None
            worker.kill()

    def _hear(self, generation: int, message: FromWorker) -> None:
        if generation != self._generation:
            return  # the last words of a worker that has been replaced
        self.heard_at = self._clock()
        match message:
            case Loading(phase):
                if self.model is None:
                    self._enter(phase)
            case Devices(count):
                self._tell.devices(count)
            case Ready(model):
                self._on_ready(model)
            case LoadFailed(text):
                self._exit_reason = text
                if self.model is None:
                    self.fatal = text
            case Heartbeat():
                self.beat = message
            case Exited(reason):
                self._exit_reason = self._exit_reason or f"the worker ended ({reason})"
                self._exited.set()
            case _:
                self._tell.work(message)

    def _on_ready(self, model: ModelInfo) -> None:
        self._load_seconds = self._clock() - self._launch_at
        self.model, self.fatal = model, None
        self._enter("ready")
        self._log.info(
            "ready", model=model.name, device=model.device, dtype=model.dtype, mode=model.mode,
            slots=model.slots, load_s=round(self._load_seconds, 2), image_s=round(model.seconds_per_image, 2),
        )  # fmt: skip
        self._tell.ready(model)

    def _enter(self, phase: Phase) -> None:
        if phase != self.phase:
            self.phase, self.phase_since = phase, self._clock()
