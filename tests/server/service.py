"""The app around a fake engine, all in the test's own process."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from fastapi import FastAPI

from server.app import create_app
from server.dispatch.engine_client import EngineClient
from server.dispatch.served_models import ServedModels
from server.messages import FromWorker
from server.model_settings import WorkerSettings
from server.reloading import Reloading
from server.settings import Settings
from tests.server import fakes
from tests.server.fakes import FakeEngine, ThreadWorker

if TYPE_CHECKING:
    from server.tracing.tracing import Tracing


def post_generate() -> dict[str, Any]:
    """The ASGI scope of ``POST /generate``, for tests that speak it without a client of HTTP."""
    return {
        "type": "http",
        "asgi": {"spec_version": "2.3"},
        "method": "POST",
        "path": "/generate",
        "raw_path": b"/generate",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1",
        "scheme": "http",
    }


@dataclass
class Service:
    """A running app and what is behind it."""

    http: httpx.AsyncClient
    app: FastAPI
    models: ServedModels
    engines: list[FakeEngine]

    @property
    def client(self) -> EngineClient:
        """The client of the first model's engine."""
        return self.models.first.engine

    def worker(self, index: int = 0) -> ThreadWorker:
        """A worker that runs."""
        worker = self.client.workers.supervisors[index].worker
        assert isinstance(worker, ThreadWorker)
        return worker

    @property
    def engine(self) -> FakeEngine:
        """The engine of the latest worker."""
        return self.engines[-1]

    async def generate(self, **body: Any) -> httpx.Response:
        return await self.http.post("/generate", json={"prompt": "a red apple", **body})


@asynccontextmanager
async def serve_fake(
    *,
    make_engine: Callable[[], FakeEngine] = FakeEngine,
    load_errors: Sequence[str | None] = (),
    launch_errors: Sequence[Exception | None] = (),
    loaded: threading.Event | None = None,
    devices: int = 1,
    wait: bool = True,
    tracing: Tracing | None = None,
    check_model: Callable[[str], None] = lambda model: None,
    **settings: Any,
) -> AsyncIterator[Service]:
    """Serve a fake engine in this process.

    ``load_errors`` are those of the first workers, and ``launch_errors`` are raised by the first launches; after
    them they succeed. ``loaded`` is waited for by each. Each finds ``devices``. A fake model has the name that the
    settings give it; the default is ``star-fake``. ``check_model`` refuses those that do not exist.
    """
    engines: list[FakeEngine] = []
    failures = list(launch_errors)

    def launch(
        settings: WorkerSettings, index: int, deliver: Callable[[FromWorker], None]
    ) -> ThreadWorker:
        if failures and (failure := failures.pop(0)) is not None:
            raise failure
        engines.append(make_engine())
        error = load_errors[len(engines) - 1] if len(engines) <= len(load_errors) else None
        name = fakes.MODEL.name if settings.model == "star-mini" else settings.model
        return ThreadWorker(engines[-1], deliver, error, loaded, devices, name)

    def read() -> Settings:
        return Settings(**{"restart_backoff_s": 0.01, **settings})

    given = read()
    models = ServedModels(given, launch, check_model=check_model)
    app = create_app(given, models, Reloading(given, models.metrics, read), tracing)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", timeout=20) as http,
    ):
        if wait:
            await until(lambda: models.settled and models.first.engine.phase == "ready")
        try:
            yield Service(http, app, models, engines)
        finally:
            if loaded is not None:
                loaded.set()
            for engine in engines:
                engine.gate.set()


def short_of_threads(monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    """Let no thread start whose name begins like this, as where a limit on processes is reached."""
    start = threading.Thread.start

    def started(self: threading.Thread) -> None:
        if self.name.startswith(names):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", started)


async def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait for a condition that another task or thread brings about."""
    with anyio.fail_after(timeout):
        while not condition():
            await anyio.sleep(0.005)
