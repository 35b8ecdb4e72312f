"""The app around a fake engine, all in the test's own process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import structlog

if TYPE_CHECKING:  # a second that the process waits which only hands out the tests
    from server.images.decode_process import DecodeProcess
    from tests.server.service import Service


@pytest.fixture(autouse=True)
def _plain_tracebacks() -> None:
    """The default ones, with the source around each line, take seconds to write."""
    console = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(processors=[structlog.processors.add_log_level, console])


@pytest.fixture(scope="session")
def _idle_decoders() -> Iterator[dict[tuple[float, int], list[DecodeProcess]]]:
    """Processes that decode images and whose app has ended, by their limits of time and memory."""
    kept: dict[tuple[float, int], list[DecodeProcess]] = defaultdict(list)
    yield kept
    for process in (process for idle in kept.values() for process in idle):
        process.close()


@pytest.fixture(scope="module", autouse=True)
def _decoders_go_on_to_the_next_app(
    _idle_decoders: dict[tuple[float, int], list[DecodeProcess]],
) -> Iterator[None]:
    """Start a decoder only if no app has left one: the start is most of what an edit costs here.

    How they start and end is tested in ``tests/processes/test_untrusted_images.py``.
    """
    from server.images import decode_pool
    from server.images.decode_pool import DecodePool
    from server.images.decode_process import DecodeProcess

    kept, close = _idle_decoders, DecodePool.close

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


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    from tests.server.service import serve_fake

    async with serve_fake() as running:
        yield running


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Service]:
    """The same, for all tests of a file that only read its answers."""
    from tests.server.service import serve_fake

    async with serve_fake() as running:
        yield running
