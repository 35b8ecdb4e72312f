"""All models of a server, each with workers and a queue of its own: which one a name means, and the state of all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from server.dispatch.engine_client import EngineClient
from server.dispatch.served_model import LaunchWorker, ServedModel, SwapFailed
from server.errors import EngineDead, RateLimitExceeded
from server.messages import ModelInfo
from server.metrics import Metrics
from server.settings import Settings

_LOOK_SECONDS = 0.1


class ServedModels:
    """The models that a server serves. The first one paints requests that name none.

    Models load one after the other, so that each finds the memory that is left by those before it.

    Args:
        settings: of the server; ``model`` names the models.
        launch: starts a worker.
        metrics: where everything is counted.
        clock: seconds, monotonic, shared with the workers.
        check_model: raises a StarError for what cannot be a model, before a worker is started for it.

    Attributes:
        metrics: of the server.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        settings: Settings,
        launch: LaunchWorker,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        check_model: Callable[[str], None] = lambda model: None,
    ) -> None:
        self.metrics = metrics or Metrics(by_model=len(settings.model) > 1)
        self.clock = clock
        self._began_at = clock()
        self._models = [
            ServedModel(model, settings, self.metrics, launch, clock, check_model)
            for model in settings.model
        ]
        self._starting: asyncio.Task[None] | None = None

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    @property
    def first(self) -> ServedModel:
        """The model that paints requests that name none."""
        return self._models[0]

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return len(self._models) > 1

    @property
    def ready(self) -> list[ModelInfo]:
        """The loaded models that take requests now, in the order of the settings."""
        served = [model for model in self._models if model.engine.phase == "ready"]
        return [model.info for model in served if model.info is not None]

    @property
    def leading(self) -> ServedModel:
        """The model whose phase is the service's: one that still loads, else one that is ready, or was."""
        loading = [model for model in self._models if not model.settled]
        ready = [model for model in self._models if model.engine.phase == "ready"]
        loaded = [model for model in self._models if model.info is not None]
        return [*loading, *ready, *loaded, self.first][0]

    @property
    def settled(self) -> bool:
        """True once the first load of each has ended, and one of them well."""
        return all(model.settled for model in self._models) and self.fatal is None

    @property
    def alive(self) -> bool:
        """True while all workers are supervised."""
        starting = self._starting is None or not self._starting.done() or self._started_well()
        return starting and all(model.alive for model in self._models)

    @property
    def fatal(self) -> str | None:
        """Reason why nothing can be served at all: no model has ever been loaded."""
        if not self.several:
            return self.first.failure
        failures = [(model.name, model.failure) for model in self._models]
        if any(reason is None for _, reason in failures):
            return None
        return "; ".join(f"{name}: {str(reason).rstrip('.')}" for name, reason in failures)

    @property
    def uptime_seconds(self) -> float:
        """Seconds since the server was started."""
        return self.clock() - self._began_at

    @property
    def outstanding(self) -> int:
        """Number of images that have been admitted and are not finished."""
        return sum(engine.outstanding for engine in self._engines())

    @property
    def requests(self) -> int:
        """Number of requests in progress."""
        return sum(engine.requests for engine in self._engines())

    @property
    def idle(self) -> bool:
        """True while no request is in progress."""
        return all(engine.idle for engine in self._engines())

    def require_allowance(self, tenant: str, images: int, most: int) -> None:
        """Refuse images of a tenant that has too many in flight, of whichever models.

        Args:
            tenant: whose they are.
            images: their number, at most ``most``.
            most: images that it may have in flight.

        Raises:
            RateLimitExceeded: ``retry_after`` says when there may be fewer.
        """
        held = {engine: engine.in_flight_of(tenant) for engine in self._engines()}
        total = sum(held.values())
        if (excess := total + images - most) > 0:
            wait = max(held, key=held.__getitem__).wait_for(excess)
            raise RateLimitExceeded(
                f"The limit of {most} images in flight is reached: {total} are. Try again in {wait} s.",
                retry_after=wait,
            )

    def find(self, name: str) -> ServedModel | None:
        """Return the model of a name, as ``/v1/models`` lists it; None if there is none."""
        return next((model for model in self._models if model.name == name), None)

    def check_ready(self) -> list[ModelInfo]:
        """Return the models that take requests, once each has been loaded or has failed to.

        Raises:
            Unavailable: none does, or the first load of one is not finished.
        """
        checked = self.leading.engine.check_ready()
        return self.ready or [checked]

    def start(self) -> None:
        """Start the workers; returns before a model is loaded. Call it on the event loop."""
        self.first.start()
        if self.several:
            self._starting = asyncio.create_task(self._start_others(), name="start models")

    async def close(self) -> None:
        """Fail what is left, and end all workers."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await asyncio.gather(*(model.close() for model in self._models))

    def begin_drain(self) -> None:
        """Refuse new requests and those still queued; what has been started goes on."""
        for engine in self._engines():
            engine.begin_drain()

    def abandon(self) -> None:
        """Fail what is still running: the time to drain is over."""
        for engine in self._engines():
            engine.abandon()

    def change(self, settings: Settings) -> None:
        """Go by other limits and another log level from now on."""
        for model in self._models:
            model.change(settings)

    async def exchange(self, old: ServedModel, model: str) -> ModelInfo:
        """Load a model in the place of another; see :meth:`ServedModel.exchange`."""

        def check(name: str) -> None:
            if any(other.name == name for other in self._models if other is not old):
                raise SwapFailed(f"The name of {model} is {name}, which another model has here.")

        return await old.exchange(model, check)

    async def _start_others(self) -> None:
        for model in self._models:
            if model is not self.first:
                model.start(beside_others=True)
            while not model.settled:  # noqa: ASYNC110 - what it waits for changes in many places
                await asyncio.sleep(_LOOK_SECONDS)
            if (twin := self.find(model.name)) is not None and twin is not model:
                await model.refuse(
                    f"{model.model} and {twin.model} have the same name, {model.name}; serve one of them."
                )

    def _started_well(self) -> bool:
        task = self._starting
        return task is not None and not task.cancelled() and task.exception() is None

    def _engines(self) -> list[EngineClient]:
        return [engine for model in self._models for engine in model.engines]


def unavailable(model: ServedModel) -> EngineDead:
    """Return the error for a request to a model that could not be loaded while others are."""
    return EngineDead(
        f"{model.name} could not be loaded; the server has other models. /startupz says why.",
        retry_after=60,
    )
