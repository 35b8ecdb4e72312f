"""One of the models that a server serves: the engine that takes its requests, and how another takes over from it.

A swap loads the new model in workers of its own while the old ones serve. Once all of them are ready, requests that
come from then on go to them. Those that were under way end on the old workers, which are let go after the last one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import structlog

from server.dispatch.engine_client import EngineClient
from server.dispatch.worker_process import Worker
from server.errors import Draining, Outcome, ServerError
from server.messages import FromWorker, ModelInfo
from server.metrics import Metrics
from server.model_metrics import ModelMetrics
from server.model_settings import WorkerSettings
from server.setting_values import label_of
from server.settings import Settings
from star_model.errors import StarError

_LOOK_SECONDS = 0.1

LaunchWorker = Callable[[WorkerSettings, int, Callable[[FromWorker], None]], Worker]
"""Starts the worker of an index with these settings; else as :data:`server.dispatch.worker_process.Launch`."""

SwapPhase = Literal["loading", "done", "failed"]


class SwapUnderWay(ServerError):
    """Another model is being loaded to take over from this one."""

    status = 409
    code = "swap_under_way"
    outcome: ClassVar[Outcome] = "rejected"
    retryable = True


class SwapFailed(ServerError):
    """The model that was to take over cannot be loaded, or cannot be served beside the others."""

    status = 422
    type = "invalid_request_error"
    code = "model_not_loaded"
    outcome: ClassVar[Outcome] = "invalid"


@dataclass
class Swap:
    """The latest swap of a model.

    Args:
        model: name or directory of the new one.
        began_at: time, on the clock of the engines.
        phase: of the swap.
        ended_at: None while it is under way.
        reason: why it failed.
        given_up: somebody has asked to give it up.
    """

    model: str
    began_at: float
    phase: SwapPhase = "loading"
    ended_at: float | None = None
    reason: str | None = None
    given_up: bool = False


class ServedModel:
    """A model by its place in the settings, whatever model is loaded there now.

    Args:
        model: name or directory.
        settings: in force.
        metrics: of the server.
        launch: starts a worker.
        clock: seconds, monotonic, shared with the workers.
        check_model: raises a StarError for what cannot be a model, before a worker is started for it.

    Attributes:
        place: what metrics call it, whatever is loaded there: the last part of the first ``model``.
        model: name or directory of what takes requests now.
        engine: takes the requests.
        candidate: engine that loads, to take over; None most of the time.
        retired: engines that took requests before, and have not finished them.
        swap: the latest, under way or over; None before the first.
        refused: reason why the model is not served though it could be loaded.
    """

    def __init__(
        self,
        model: str,
        settings: Settings,
        metrics: Metrics,
        launch: LaunchWorker,
        clock: Callable[[], float],
        check_model: Callable[[str], None] = lambda model: None,
    ) -> None:
        self.model = model
        self._check_model = check_model
        self._settings = settings
        self._metrics = metrics
        self._launch = launch
        self._clock = clock
        self.place = label_of(model)
        self._started = False
        self._beside_others = False
        self._swaps = 0  # begun
        self._log = structlog.get_logger("star.models")
        self.engine = self._make_engine(model, shown=True)
        self.candidate: EngineClient | None = None
        self.retired: list[EngineClient] = []
        self.swap: Swap | None = None
        self.refused: str | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        self._watch_requests()

    @property
    def info(self) -> ModelInfo | None:
        """The loaded model; None until the first load."""
        return self.engine.workers.model

    @property
    def name(self) -> str:
        """Its public name: until it has been loaded, the last part of the one in the settings."""
        return self.info.name if self.info is not None else label_of(self.model)

    @property
    def engines(self) -> list[EngineClient]:
        """The engines that have, or may have, requests."""
        return [self.engine, *self.retired]

    @property
    def failure(self) -> str | None:
        """Reason why it has never been served; None if it has been, or still loads."""
        return self.refused or self.engine.workers.fatal

    @property
    def settled(self) -> bool:
        """True once the first load has ended, well or not."""
        return self.info is not None or self.failure is not None

    @property
    def alive(self) -> bool:
        """True while its workers are supervised, or are still to be started."""
        without_workers = not self._started or self.refused is not None
        return without_workers or self.engine.workers.alive

    def start(self, *, beside_others: bool = False) -> None:
        """Start the workers; returns before the model is loaded. Call it on the event loop.

        Args:
            beside_others: another model of this server holds memory already.
        """
        self._started, self._beside_others = True, beside_others
        self.engine.start()

    async def refuse(self, reason: str) -> None:
        """Do not serve the model, and let its workers go."""
        self.refused = reason
        self._log.error("model refused", model=self.model, reason=reason)
        await self.engine.close()

    async def close(self) -> None:
        """Fail what is left, and end all workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(engine.close() for engine in self._all_engines()))

    def change(self, settings: Settings) -> None:
        """Go by other limits and another log level from now on."""
        self._settings = settings
        for engine in self._all_engines():
            engine.change(settings)

    async def exchange(self, model: str, check: Callable[[str], None]) -> ModelInfo:
        """Load another model, and let it take over; goes on when the caller is cancelled.

        Args:
            model: name or directory of the new one.
            check: raises :class:`SwapFailed` if a model of that public name cannot be served here.

        Returns:
            the new model, which takes requests now.

        Raises:
            SwapUnderWay: another model is being loaded.
            SwapFailed: this one could not be loaded; the old one goes on.
            Draining: the server shuts down.
        """
        if self.candidate is not None:
            raise SwapUnderWay(
                f"{label_of(self.swap.model) if self.swap else 'Another model'} is being loaded to take over; wait "
                "until that has ended."
            )
        self.swap = Swap(model, self._clock())
        self._swaps += 1
        self.candidate = self._make_engine(model, shown=False)
        self._log.info("swap begins", model=model, old=self.model, swap=self._swaps)
        task = asyncio.create_task(self._exchange(self.swap, self.candidate, check))
        self._keep(task)
        return await asyncio.shield(task)

    def give_up(self) -> bool:
        """Ask for the swap that is under way to be given up; return whether there is one."""
        if self.candidate is None or self.swap is None:
            return False
        self.swap.given_up = True
        return True

    async def _exchange(
        self, swap: Swap, candidate: EngineClient, check: Callable[[str], None]
    ) -> ModelInfo:
        try:
            loaded = await self._load(swap, candidate)
            check(loaded.name)
        except (ServerError, asyncio.CancelledError) as error:
            swap.phase, swap.ended_at = "failed", self._clock()
            swap.reason = str(error) or "the server shuts down"
            self._metrics.model_swaps.labels("failed").inc()
            self._log.error(
                "swap failed, the old model goes on", model=swap.model, reason=swap.reason
            )
            await candidate.close()
            self.candidate = None
            raise
        self._take_over(swap, candidate)
        return loaded

    async def _load(self, swap: Swap, candidate: EngineClient) -> ModelInfo:
        """Start the workers of an engine, and wait until all are ready."""
        try:
            await asyncio.to_thread(self._check_model, swap.model)
        except StarError as error:
            raise SwapFailed(f"{error}.") from error
        candidate.start()
        while not (candidate.workers.complete and candidate.workers.model is not None):
            if (reason := candidate.workers.failure) is not None:
                raise SwapFailed(reason if reason.endswith(".") else f"{reason}.")
            if swap.given_up:
                raise SwapFailed("The swap was given up.")
            if self.engine.phase == "draining":
                raise Draining("The server is shutting down.")
            await asyncio.sleep(_LOOK_SECONDS)
        return candidate.workers.model

    def _take_over(self, swap: Swap, candidate: EngineClient) -> None:
        old, self.engine, self.candidate = self.engine, candidate, None
        old.metrics.hide()
        candidate.metrics.show()
        self.model, self.refused = swap.model, None
        swap.phase, swap.ended_at = "done", self._clock()
        self._metrics.model_swaps.labels("done").inc()
        self._log.info(
            "swap done", model=swap.model, under_way=old.outstanding,
            load_s=round(swap.ended_at - swap.began_at, 1),
        )  # fmt: skip
        self.retired.append(old)
        self._keep(asyncio.create_task(self._let_go(old)))

    async def _let_go(self, old: EngineClient) -> None:
        """End the workers of an engine after its last request."""
        while not old.unused:  # noqa: ASYNC110 - what it waits for changes in many places
            await asyncio.sleep(_LOOK_SECONDS)
        await old.close()
        self.retired.remove(old)
        self._log.info("the old model's workers have ended")

    def _all_engines(self) -> list[EngineClient]:
        """Return the engines, the one that is being loaded included."""
        return [*self.engines, *([self.candidate] if self.candidate is not None else [])]

    def _keep(self, task: asyncio.Task[object]) -> None:
        """Keep a task until it is done; its error, if any, is its awaiter's."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _make_engine(self, model: str, *, shown: bool) -> EngineClient:
        """Return an engine; the log tells its workers from those of engines before it by the number of the swap."""
        swap = self._swaps

        def launch(index: int, deliver: Callable[[FromWorker], None]) -> Worker:
            beside_others = self._beside_others or not shown
            given = engine.settings.for_worker(model, beside_others=beside_others, swap=swap)
            return self._launch(given, index, deliver)

        metrics = ModelMetrics(self._metrics, self.place, shown=shown)
        labels: dict[str, str | int] = {**metrics.labels}
        if swap:
            labels |= {"model": label_of(model), "swap": swap}
        engine = EngineClient(launch, self._settings, metrics, self._clock, labels)
        return engine

    def _watch_requests(self) -> None:
        """Show what is in all engines of this model as one."""
        metrics = ModelMetrics(self._metrics, self.place)
        metrics.watch("requests_running", lambda: sum(e.running for e in self.engines))
        metrics.watch("requests_waiting", lambda: sum(e.waiting for e in self.engines))
        metrics.watch("queue_capacity", lambda: self._settings.queue_capacity)
