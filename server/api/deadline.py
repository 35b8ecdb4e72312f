"""Work that ends at the request's deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from server.errors import DeadlineExceeded

T = TypeVar("T")


async def before_deadline(seconds: float, work: Coroutine[Any, Any, T], doing: str) -> T:
    """Await work for some seconds at most, then cancel it.

    Args:
        seconds: left until the deadline; may be negative.
        work: cancelled at the deadline.
        doing: completes "The request's deadline passed while ...".

    Raises:
        DeadlineExceeded: the deadline passed first.
    """
    try:
        async with asyncio.timeout(max(seconds, 0)):
            return await work
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"The request's deadline passed while {doing}; raise timeout_s."
        ) from error
