"""Keeps one worker running: starts it, listens, replaces it when it is silent or hangs, restarts with backoff."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from server.dispatch.worker_process import Launch, Worker, stop
from server.dispatch.worker_state import EndCause, WorkerEnd, WorkerPhase, WorkerState
from server.messages import (
    Devices,
    Exited,
    FromWorker,
    Heartbeat,
    LoadFailed,
    Loading,
    ModelInfo,
    PromptRead,
    Ready,
    ToWorker,
    Work,
)
from server.settings import Settings

_LONGEST_BACKOFF = 60.0
_WATCH_SECONDS = 0.5
_STOP_SECONDS = 5.0
_REPORT_SECONDS = 10.0
_LOAD_SILENCE_SECONDS = 30.0


@dataclass(frozen=True)
class SupervisorCallbacks:
    """Callbacks that a supervisor invokes, all on the event loop.

    Args:
        devices: with the number of workers that the machine has devices for.
        ready: when a worker is warm.
        ended: when a process of the worker has ended, with its end.
        lost: after that, if the model had been loaded before; the worker will be restarted.
        work: with what the worker says about jobs.
    """

    devices: Callable[[int], None]
    ready: Callable[[ModelInfo], None]
    ended: Callable[[WorkerEnd], None]
    lost: Callable[[], None]
    work: Callable[[Work | PromptRead], None]


class Supervisor:
    """The life of one worker, seen from the event loop.

    Args:
        index: of the worker, from 0.
        launch: starts a worker.
        settings: its timeouts and its backoff are used.
        callbacks: see :class:`SupervisorCallbacks`.
        clock: seconds, monotonic, shared with the worker.
        labels: of its model in the log.

    Attributes:
        phase: of the worker's life.
        phase_since: time at which it began.
        restarts: processes that have ended.
        last_end: of the latest of them.
        model: the loaded model, also while a worker is restarted; None until the first load.
        fatal: reason why the model has never been loaded, once that has been tried.
        worker: the running worker; None between two.
        beat: its latest heartbeat.
        heard_at: time of its latest message.
    """

    def __init__(
        self,
        index: int,
        launch: Launch,
        settings: Settings,
        callbacks: SupervisorCallbacks,
        clock: Callable[[], float],
        labels: Mapping[str, str | int] | None = None,
    ) -> None:
        self.index = index
        self._launch = launch
        self._settings = settings
        self._callbacks = callbacks
        self._clock = clock
        self.phase: WorkerPhase = "starting"
        self.phase_since = clock()
        self.restarts = 0
        self.last_end: WorkerEnd | None = None
        self.model: ModelInfo | None = None
        self.fatal: str | None = None
        self.worker: Worker | None = None
        self.beat: Heartbeat | None = None
        self.heard_at = clock()
        self._ready_at: float | None = None  # when the running worker had loaded the model
        self._exited = asyncio.Event()
        self._cause: EndCause = "exited"  # why the running process ends; the first reason counts
        self._reason = ""
        self._generation = 0
        self._launch_at = clock()
        self._load_seconds = 10.0  # a guess until the first load
        self._reported_at = clock()  # when the log last said that it loads
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger("star.engine").bind(worker=index, **(labels or {}))

    @property
    def alive(self) -> bool:
        """True while the tasks that keep a worker running are running themselves."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    @property
    def seconds_to_ready(self) -> float:
        """Seconds until the worker is likely to be ready, judging by the last load."""
        return max(0.0, self._launch_at + self._load_seconds - self._clock())

    @property
    def state(self) -> WorkerState:
        """The worker at this moment, for operators."""
        now, end = self._clock(), self.last_end
        ago = None if end is None else now - end.at
        return WorkerState(self.index, self.phase, now - self.phase_since, self.restarts, end, ago)

    def send(self, message: ToWorker) -> None:
        """Pass a message to the worker; without one it is dropped."""
        if self.worker is not None:
            self.worker.send(message)

    def start(self) -> None:
        """Start supervising; returns before there is a worker."""
        self._tasks = [
            asyncio.create_task(self._keep_on(self._supervise), name="supervise"),
            asyncio.create_task(self._keep_on(self._watch), name="watch"),
        ]

    async def close(self) -> None:
        """End the worker and the supervision."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        worker, self.worker = self.worker, None
        self._generation += 1  # whatever the worker still says is ignored
        if worker is not None:
            if (
                self.phase != "ready"
            ):  # it is loading, and would read no message before that is done
                worker.kill()
            await asyncio.to_thread(stop, worker, _STOP_SECONDS)
        self._enter("stopped")

    async def _keep_on(self, part: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a part of the supervision that has no end; a fault of it costs a worker at most, never the service."""
        while True:
            try:
                await part()
            except Exception as error:
                self._log.error("supervision failed, and goes on", exc_info=error)
                if (worker := self.worker) is not None:
                    with contextlib.suppress(Exception):
                        worker.kill()
                await asyncio.sleep(self._settings.restart_backoff_s)

    async def _supervise(self) -> None:
        failures = 0
        while True:
            await self._run_worker()
            self.worker, self.beat = None, None
            now = self._clock()
            failures = 1 if now - self._launch_at > _LONGEST_BACKOFF else failures + 1
            # Of a model that was never loaded this is the end, unless another worker is ready.
            backoff = _LONGEST_BACKOFF if self.model is None else self._backoff(failures)
            self._note_end(WorkerEnd(self._cause, self._reason, now), backoff)
            if self.model is None:
                self.fatal = self.fatal or f"The model could not be loaded: {self._reason}."
                self._enter("failed")
            else:
                self._launch_at = now + backoff
                self._enter("restarting")
                self._callbacks.lost()
            await asyncio.sleep(backoff)

    def _note_end(self, end: WorkerEnd, backoff: float) -> None:
        """Keep, log and count the end of a process."""
        self.restarts += 1
        self.last_end = end
        # That the model cannot be loaded at all, the command says when it ends.
        log = self._log.warning if self.model is None else self._log.error
        log(
            "worker exited", cause=end.cause, reason=end.reason, phase=self.phase,
            lived_s=round(end.at - self._launch_at, 1), restarts=self.restarts, restart_s=backoff,
        )  # fmt: skip
        self._callbacks.ended(end)

    def _backoff(self, failures: int) -> float:
        """Return the seconds before the next start after this many failures in a row."""
        doublings = min(
            failures - 1, 16
        )  # more would only overflow: 2 ** 16 times any setting is past the limit
        return min(self._settings.restart_backoff_s * 2.0**doublings, _LONGEST_BACKOFF)

    async def _run_worker(self) -> None:
        """Start a worker and wait for its end; a launch that fails counts as an end."""
        self._generation += 1
        self._exited.clear()
        self._cause, self._reason, self._ready_at = "exited", "", None
        self._launch_at = self.heard_at = self._clock()
        self._enter("starting")
        loop, generation = asyncio.get_running_loop(), self._generation
        launched = threading.Event()

        def deliver(message: FromWorker) -> None:
            launched.wait()  # a quick worker must not be ready before there is one to send to
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(self._hear, generation, message)

        launching = asyncio.ensure_future(asyncio.to_thread(self._launch, self.index, deliver))
        try:
            self.worker = await asyncio.shield(launching)
        except asyncio.CancelledError:
            self.worker = await launching  # so that close() finds it and ends it
            raise
        except Exception as error:  # no descriptors, no memory, no processes: all of these pass
            reason = f"the worker could not be started ({type(error).__name__}: {error})"
            self._blame("not_started", reason)
            return
        finally:
            launched.set()
        await self._exited.wait()

    async def _watch(self) -> None:
        """Kill a worker that is silent, whose load takes too long, or whose engine hangs."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            self._report_load()
            worker = self.worker
            if worker is not None and (hang := self._hang()):
                self._blame(*hang)
                self.beat, self.heard_at = None, self._clock()
                worker.kill()

    def _report_load(self) -> None:
        """Log every ten seconds that a worker still loads, so that a long start is not a silent one."""
        now = self._clock()
        if self.worker is None or self._ready_at is not None:
            self._reported_at = now
        elif now - max(self._reported_at, self._launch_at) >= _REPORT_SECONDS:
            self._reported_at = now
            self._log.info("still loading", phase=self.phase, seconds=round(now - self._launch_at))

    def _hang(self) -> tuple[EndCause, str] | None:
        """Return why the running worker must be replaced; None if it need not be."""
        now, beat = self._clock(), self.beat
        silent, patience = now - self.heard_at, self._settings.heartbeat_timeout_s
        if (
            self._ready_at is None
        ):  # a start, and the import of PyTorch, can hold up a busy machine's interpreter
            patience = max(patience, _LOAD_SILENCE_SECONDS)
        if silent > patience:
            return "silent", f"it was silent for {silent:.0f} s"
        if self._ready_at is None:
            loading = now - self._launch_at
            late = loading > self._settings.load_timeout_s
            reason = f"it had not loaded the model after {loading:.0f} s"
            return ("load_timeout", reason) if late else None
        if beat is None or beat.idle:
            return None
        # A last heartbeat of the load may arrive after the worker has reported that it is ready.
        stalled = now - max(beat.turned_at, self._ready_at)
        late = stalled > self._settings.stall_timeout_s
        return ("stalled", f"its engine hung in one step for {stalled:.0f} s") if late else None

    def _blame(self, cause: EndCause, reason: str) -> None:
        """Note why the process ends; what it says, or dies of, after the first reason follows from that."""
        if not self._reason:
            self._cause, self._reason = cause, reason

    def _hear(self, generation: int, message: FromWorker) -> None:
        if generation != self._generation:
            return  # a late message of a worker that has been replaced
        self.heard_at = self._clock()
        match message:
            case Loading(phase):
                self._enter(phase)
            case Devices(count):
                self._callbacks.devices(count)
            case Ready(model):
                self._on_ready(model)
            case LoadFailed(text):
                self._blame("load_failed", text)
                if self.model is None:
                    self.fatal = text
            case Heartbeat():
                self.beat = message
            case Exited(reason, killed):
                self._blame("killed" if killed else "exited", f"the worker ended with {reason}")
                self._exited.set()
            case _:
                self._callbacks.work(message)

    def _on_ready(self, model: ModelInfo) -> None:
        self._load_seconds = self._clock() - self._launch_at
        self.model, self.fatal, self._ready_at = model, None, self._clock()
        self._enter("ready")
        self._log.info(
            "ready", model=model.name, device=model.device, dtype=model.dtype, mode=model.mode,
            slots=model.slots, load_s=round(self._load_seconds, 2), image_s=round(model.seconds_per_image, 2),
        )  # fmt: skip
        self._callbacks.ready(model)

    def _enter(self, phase: WorkerPhase) -> None:
        if phase != self.phase:
            self.phase, self.phase_since = phase, self._clock()
            self._log.debug("worker phase", phase=phase)
