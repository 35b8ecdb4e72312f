"""Where a safety hook runs: an event loop in a thread of its own, and threads for hooks that block.

A hook that blocks or hangs holds up other checks at most, never the server's event loop. All threads are daemons, so a
hook that never returns does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

from server.safety.check import Check, Hook

_CLOSE_S = 2.0


class HookThread:
    """Calls one hook.

    Args:
        hook: called with each check.
        concurrency: checks at once; others wait. One that was given up still counts until its thread has ended.
    """

    def __init__(self, hook: Hook, concurrency: int) -> None:
        self._hook = hook
        self._is_async = inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(
            getattr(hook, "__call__", None)  # noqa: B004 -- an object whose call is async
        )
        self._free = asyncio.Semaphore(concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="safety-hook", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def call(self, check: Check) -> object:
        """Return what the hook answers, unchecked. Cancel this to give the check up."""
        called = asyncio.run_coroutine_threadsafe(self._call(check), self._loop)
        return await asyncio.wrap_future(called)

    def close(self) -> None:
        """End the event loop, and close the hook if it has an ``aclose``. A hook that hangs is left behind."""
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        pending = asyncio.all_tasks(self._loop)
        for task in pending:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        if (aclose := getattr(self._hook, "aclose", None)) is not None:
            self._loop.run_until_complete(aclose())
        self._loop.close()

    # On the hook's own event loop.

    async def _call(self, check: Check) -> object:
        """Call the hook; all that it may raise becomes an Exception, which ends neither the loop nor the request."""
        try:
            if self._is_async:
                async with self._free:
                    return await self._hook(check)  # type: ignore[misc] # it is an awaitable
            answer = await self._call_in_thread(check)
            return await answer if inspect.isawaitable(answer) else answer
        except Exception:
            raise
        except BaseException as error:  # SystemExit, or a CancelledError
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise RuntimeError(f"the hook raised {type(error).__name__}") from error

    async def _call_in_thread(self, check: Check) -> object:
        await self._free.acquire()
        ended: asyncio.Future[tuple[object, BaseException | None]] = self._loop.create_future()

        def end(answer: object, error: BaseException | None) -> None:
            self._free.release()
            if not ended.done():  # else it was given up
                ended.set_result((answer, error))

        def run() -> None:
            answer: Any = None
            failure: BaseException | None = None
            try:
                answer = self._hook(check)
            except BaseException as error:  # SystemExit too: whoever waits is to hear of it
                failure = error
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(end, answer, failure)

        try:
            threading.Thread(target=run, name="safety-check", daemon=True).start()
        except RuntimeError:  # no thread is left: this check fails, but later ones need its place
            self._free.release()
            raise
        answer, error = await ended
        if error is not None:
            raise error
        return answer
