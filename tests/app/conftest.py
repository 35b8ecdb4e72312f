"""The app around a fake engine, all in the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import structlog

from tests.server.service import Service, serve_fake


@pytest.fixture(autouse=True)
def _plain_tracebacks() -> None:
    """The default ones, with the source around each line, take seconds to write."""
    console = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(processors=[structlog.processors.add_log_level, console])


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serve_fake() as running:
        yield running
