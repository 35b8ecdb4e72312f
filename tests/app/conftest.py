"""The app around a fake engine, all in the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.server.service import Service, serve_fake


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serve_fake() as running:
        yield running
