"""What all tests share: no network, markers for hardware, one way to run the real server."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from tests.live_server import LiveServer, running_server

# Before anything imports the hub's client, which reads it once: a test that would fetch fails instead.
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples on every run, and no deadline: a shared machine is slow at times.
settings.register_profile("star", deadline=None, derandomize=True)
settings.load_profile("star")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, or was not asked to, and say so."""
    if any(item.get_closest_marker("gpu") for item in items):
        import torch  # only now: most runs of a few tests need not wait for it

        if not torch.cuda.is_available():
            skip(items, "gpu", "needs a CUDA device")
    if any(item.get_closest_marker("browser") for item in items):
        from tests.browser.chromium import find_browser

        if find_browser() is None:
            skip(items, "browser", "needs chromium")
    if "network" not in config.option.markexpr:
        skip(items, "network", "installs from the package index; ask for it with -m network")
    if "soak" not in config.option.markexpr:
        skip(items, "soak", "runs for long; ask for it with -m soak")


def skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    """Skip the items that have the marker."""
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("STAR_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def anyio_backend() -> str:
    """``@pytest.mark.anyio`` runs a coroutine test on the event loop that the server runs on."""
    return "asyncio"


@pytest.fixture(scope="session")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The real server as a process, with the embedded default model, ready; one for all tests that read."""
    log: Path = tmp_path_factory.mktemp("live_server") / "server.log"
    with running_server(log=log) as server:
        yield server
