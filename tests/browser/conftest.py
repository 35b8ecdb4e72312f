"""A browser for a module, a page for a test, and the real app around a fake engine behind it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect
from structlog.testing import capture_logs

from tests.browser.chromium import Watch, open_browser
from tests.browser.editing import EditEngine
from tests.live_server import free_port
from tests.server.fakes import FakeEngine, Step
from tests.server.service import Service, serve_fake

PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 860}
PATIENCE = 60.0
"""Seconds that anything may take on a machine that has other work too; what is right comes much sooner."""

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=1000 * PATIENCE)
    with open_browser() as opened:
        yield opened


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages, each in a browser profile of its own; in the end, checks what none of them may do."""
    contexts, watch = [], Watch()

    def open_(url: str, *, script: str = "", **options: Any) -> Page:
        options = {
            "viewport": DESKTOP,
            "permissions": ["clipboard-read", "clipboard-write"],
            **options,
        }
        context = browser.new_context(**options)
        context.set_default_timeout(1000 * PATIENCE)
        contexts.append(context)
        page = context.new_page()
        watch.over(page)
        if script:
            page.add_init_script(script)
        page.goto(url)
        assert watch.hosts == {urlsplit(url).netloc}
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not watch.problems
    assert len(watch.hosts) <= 1, f"a page spoke to other hosts: {watch.hosts}"


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def halt(engine: FakeEngine, scale: int = 6) -> None:
    """Stop before this scale until the engine's gate is opened; by 6, one preview of three has been sent."""

    def stop(step: Step) -> None:
        if step.scale == scale:
            engine.gate.clear()
            engine.on_step = None

    engine.on_step = stop


def halting_engine(scale: int = 6) -> FakeEngine:
    """An engine that stops before this scale."""
    engine = FakeEngine()
    halt(engine, scale)
    return engine


def let_go(engine: FakeEngine) -> None:
    """Open the gate of a halting engine, once it has come to it: opened before, it would be shut for good."""
    wait_for(lambda: engine.on_step is None)
    engine.gate.set()


@dataclass
class FakeServer:
    """The app with a fake engine, on a port.

    Attributes:
        url: without a slash at the end.
        service: the app and what is behind it.
    """

    url: str
    service: Service
    _loop: asyncio.AbstractEventLoop
    _server: uvicorn.Server
    _thread: threading.Thread

    def outstanding(self) -> int:
        """Images that have been admitted and are not finished; asked where they are counted, in the server's loop."""

        async def count() -> int:
            return self.service.client.outstanding

        return asyncio.run_coroutine_threadsafe(count(), self._loop).result(20)

    def stop(self) -> None:
        """Hang up on everybody and leave."""
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()


@contextmanager
def fake_server(**options: Any) -> Iterator[FakeServer]:
    """Serve a fake engine from a thread; the options are those of ``serve_fake``."""
    options = {"heartbeat_timeout_s": 600, **options}  # the fake beats only when it works
    port = free_port()
    begun: list[tuple[Service, asyncio.AbstractEventLoop, uvicorn.Server]] = []

    async def main() -> None:
        async with serve_fake(**options) as service:
            config = uvicorn.Config(
                service.app, port=port, lifespan="off", log_config=None, timeout_graceful_shutdown=1
            )
            server = uvicorn.Server(config)
            begun.append((service, asyncio.get_running_loop(), server))
            await server.serve()

    thread = threading.Thread(target=anyio.run, args=(main,), name="fake-server", daemon=True)
    thread.start()
    wait_for(lambda: bool(begun) and begun[0][-1].started)
    running = FakeServer(f"http://127.0.0.1:{port}", *begun[0], thread)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., FakeServer]]:
    """Starts fake servers that end with the test, after its pages are closed."""
    servers: list[AbstractContextManager[FakeServer]] = []

    def start(**options: Any) -> FakeServer:
        servers.append(fake_server(**options))
        return servers[-1].__enter__()

    with capture_logs():  # what a thread writes between tests would stand among pytest's dots
        yield start
        for server in servers:
            server.__exit__(None, None, None)


@pytest.fixture
def engine() -> EditEngine:
    """What is behind ``page``."""
    return EditEngine()


@pytest.fixture
def page(serve: Callable[..., FakeServer], open_page: OpenPage, engine: EditEngine) -> Page:
    """The playground, with an engine that remembers what it is given to edit."""
    return open_page(serve(make_engine=lambda: engine).url)
