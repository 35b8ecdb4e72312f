"""Work that stops when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import nullcontext
from typing import Any, TypeVar

from starlette.requests import Request

from server.errors import ClientClosed
from server.http.request_log import record_of

T = TypeVar("T")


async def unless_disconnected(
    request: Request, work: Coroutine[Any, Any, T], stage: str | None = None
) -> T:
    """Await ``work``, and cancel it as soon as the client closes the connection.

    Args:
        request: its body must have been read.
        work: produces the answer, or a part of it.
        stage: name of the work in the request's trace, if it is to be there.

    Raises:
        ClientClosed: the client disconnected first.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        with record_of(request).stage(stage) if stage is not None else nullcontext():
            await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise ClientClosed("The client disconnected before the answer.")
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
