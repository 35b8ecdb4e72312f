"""The app around a fake engine, all in the test's own process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog

from server.images import decode_pool
from server.images.decode_pool import DecodePool
from server.images.decode_process import DecodeProcess
from tests.server.service import Service, serve_fake


@pytest.fixture(autouse=True)
def _plain_tracebacks() -> None:
    """The default ones, with the source around each line, take seconds to write."""
    console = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(processors=[structlog.processors.add_log_level, console])


@pytest.fixture(scope="session", autouse=True)
def _idle_decoders_are_kept() -> Iterator[None]:
    """A process that decodes images goes on to the next app, as its start is most of what an edit costs here.

    How they start and end is tested in ``tests/processes/test_untrusted_images.py``.
    """
    kept: dict[tuple[float, int], list[DecodeProcess]] = defaultdict(list)
    close = DecodePool.close

    def start(timeout_s: float, memory_bytes: int) -> DecodeProcess:
        idle = kept[timeout_s, memory_bytes]
        return idle.pop() if idle else DecodeProcess(timeout_s, memory_bytes)

    def keep_and_close(pool: DecodePool) -> None:
        kept[pool._timeout_s, pool._memory_bytes] += [p for p in pool._idle if p.usable]
        pool._idle.clear()
        close(pool)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_pool, "DecodeProcess", start)
        patch.setattr(DecodePool, "close", keep_and_close)
        yield
    for process in (process for idle in kept.values() for process in idle):
        process.close()


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serve_fake() as running:
        yield running


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Service]:
    """The same, for all tests of a file that only read its answers."""
    async with serve_fake() as running:
        yield running
