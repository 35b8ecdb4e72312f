"""What all tests share: no network, markers from what a test needs, one way to run the real server."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from star_model.threads import limit_spinning
from tests.live_server import ROOT, LiveServer, running_server

# Before anything imports torch, which reads these variables once. Of several processes that run tests,
# each has one thread: more would only take turns.
limit_spinning()
PARALLEL = "PYTEST_XDIST_WORKER" in os.environ
if PARALLEL:
    os.environ["OMP_NUM_THREADS"] = "1"

# A whole run starts hundreds of Python processes; they need not compile the same files again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Run by `nohup` or in the background of a shell, this process ignores these signals, and what it starts would too.
# A signal that has a handler is at its default again in every program that is started.
for _name in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_name) is signal.SIG_IGN:
        signal.signal(_name, lambda *_: None)

# Before anything imports the hub's client, which reads it once: a test that would fetch fails instead.
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples on every run, and no deadline or limit on their generation: a shared machine is slow at times.
settings.register_profile(
    "star", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "brief", settings.get_profile("star"), max_examples=25, stateful_step_count=25
)
settings.load_profile("star")  # `make test-fast` asks for the brief one

FOLDERS = {
    "tests/processes/": "process",
    "tests/clients/": "clients",
    "tests/browser/": "browser",
    "tests/deploy/": "deploy",
    "tests/pure/benchmarks/": "benchmark",
    "tests/pure/training/": "training",
}
"""Folder -> the marker of all tests in it."""

FIXTURES = {
    "live_server": "process",
    "browser": "browser",
    "cuda": "gpu",
    "network": "network",
    "fresh_compiler": "compile",
}
"""Fixture -> the marker of all tests that take it, directly or through another fixture."""

NOT_FAST = {
    "process",
    "clients",
    "browser",
    "deploy",
    "benchmark",
    "compile",
    "training",
    "network",
}
"""Markers of tests that ``make test-fast`` leaves out."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import nothing of the folders that ``-m fast`` would only leave out."""
    if config.option.markexpr == "fast" and collection_path.is_relative_to(ROOT):
        folder = f"{collection_path.relative_to(ROOT).as_posix()}/"
        return FOLDERS.get(folder) in NOT_FAST or None
    return None


@pytest.hookimpl(tryfirst=True)  # before -m chooses by the markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what each test needs; skip what this machine cannot run, or was not asked to, and say so."""
    for item in items:
        for marker in needs(item):
            item.add_marker(marker)
        if not NOT_FAST & {marker.name for marker in item.iter_markers()}:
            item.add_marker("fast")
    if any(item.get_closest_marker("browser") for item in items):
        from tests.browser.chromium import find_browser

        if find_browser() is None:
            skip(items, "browser", "needs chromium")
    if "network" not in config.option.markexpr:
        skip(items, "network", "installs from the package index; ask for it with -m network")
    if PARALLEL:
        items.sort(key=turn)


def turn(item: pytest.Item) -> int:
    """When a test comes, of those that run in several processes.

    Long files first: one that is begun last would keep a single process busy. Then the tests that share models: what
    a process takes from another at the end should not have to make them again.
    """
    if item.get_closest_marker("fast") is None:
        return 0
    return 1 if item.path.parent.name == "star_model" else 2


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Half as many processes again as there are processors for tests that wait: all but the fast ones."""
    return None if config.option.markexpr == "fast" else 3 * (os.cpu_count() or 1) // 2


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while tests are imported, nor look later at what was: no test frees it, and each takes a tenth
    of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def needs(item: pytest.Item) -> set[str]:
    """The markers that a test gets from its folder and its fixtures."""
    name = item.path.relative_to(ROOT).as_posix()
    taken = getattr(item, "fixturenames", ())
    of_folder = {marker for folder, marker in FOLDERS.items() if name.startswith(folder)}
    return of_folder | {marker for fixture, marker in FIXTURES.items() if fixture in taken}


def skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    """Skip the items that have the marker."""
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def cuda() -> None:
    """Skips the test that takes it on a machine without a CUDA device."""
    import torch  # only now: most runs of a few tests need not wait for it

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Taken by what compiles a network: nothing is compiled before, and nothing stays."""
    import torch

    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="session")
def network() -> None:
    """Taken by what installs from the package index."""


@pytest.fixture(scope="session", autouse=True)
def _certificates_are_read_once() -> Iterator[None]:
    """httpx reads all of them for every ``httpx.get``, 40 ms of computing, and who waits for a server asks it often."""
    import httpx

    with pytest.MonkeyPatch.context() as patch:
        once = cache(httpx.create_ssl_context)
        patch.setattr("httpx._transports.default.create_ssl_context", once)
        yield


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("STAR_", "OTEL_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """``@pytest.mark.anyio`` runs coroutine tests on asyncio, on one loop for all that share a fixture."""
    return "asyncio"


@pytest.fixture(scope="session")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The real server as a process, with the embedded default model, ready; one for all tests that read."""
    log: Path = tmp_path_factory.mktemp("live_server") / "server.log"
    with running_server(log=log) as server:
        yield server
