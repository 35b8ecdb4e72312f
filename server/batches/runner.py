"""What a server does about batches: it looks for unfinished ones, claims them, works at them, and tidies up."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable

import structlog

from server.batches.claims import Claim, Unfinished
from server.batches.errors import BatchLimit, BatchStoreFailed
from server.batches.objects import GuardedObjects
from server.batches.records import BatchRecord
from server.batches.run import BatchRun, Workplace

_LOOK_SECONDS = 10.0
_LOOKS_IN_CLAIM = 4
"""Times that a claim is refreshed before it would count no more."""
_SWEEP_SECONDS = 600.0
_END_SECONDS = 15.0


class BatchRunner:
    """Works at all unfinished batches that no other server has claimed, at the same time.

    Args:
        objects: keep the claims.
        workplace: what the batches share.
        ended: called with each batch that has ended.
    """

    def __init__(
        self,
        objects: GuardedObjects,
        workplace: Workplace,
        ended: Callable[[BatchRecord], None] = lambda _: None,
    ) -> None:
        self._objects = objects
        self._workplace = workplace
        self._ended = ended
        self._name = secrets.token_hex(8)
        self._runs: dict[str, tuple[BatchRun, asyncio.Task[None]]] = {}
        self._woken = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("star.batches")

    @property
    def running(self) -> int:
        """Number of batches that this server works at."""
        return len(self._runs)

    def start(self) -> None:
        """Begin; the event loop runs."""
        self._looking = asyncio.create_task(self._look_often())

    def wake(self) -> None:
        """Look at once: there is a new batch, or one is to be cancelled."""
        self._woken.set()

    async def close(self) -> None:
        """Leave all batches, so that another server, or the next start, goes on with them at once."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for run, _ in self._runs.values():
            run.stop("closing")
        tasks = [task for _, task in self._runs.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=_END_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_often(self) -> None:
        settings = self._workplace.settings
        seconds = min(_LOOK_SECONDS, settings.batch_takeover_s / _LOOKS_IN_CLAIM)
        clock = asyncio.get_running_loop().time
        swept = clock()
        while True:
            self._woken.clear()
            with contextlib.suppress(BatchStoreFailed):  # it is in the log
                await self._look()
                if clock() - swept > _SWEEP_SECONDS:
                    swept = clock()
                    await self._workplace.batches.sweep()
            # Not wait_for, which in Python 3.11 forgets that it was cancelled if this comes with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()

    async def _look(self) -> None:
        """Claim what nobody works at; keep the claims of what this server does."""
        unfinished = await self._workplace.batches.unfinished()
        for batch in unfinished:
            if batch.batch_id in self._runs:
                run, _ = self._runs[batch.batch_id]
                if not await run.claim.refresh(batch):
                    run.stop("lost")
                elif batch.cancelled:
                    run.stop("cancelled")
            elif claim := await self._claim(batch):
                self._begin(batch, claim)
        if self._runs:
            await self._look_for_room()

    async def _claim(self, batch: Unfinished) -> Claim | None:
        seconds, clock = self._workplace.settings.batch_takeover_s, self._workplace.clock
        return await Claim.take(self._objects, batch, self._name, seconds, clock)

    async def _look_for_room(self) -> None:
        files, room = self._workplace.files, self._workplace.room
        try:
            files.require_room((await files.usage()).size)
            room.set()
        except BatchLimit as error:
            if room.is_set():
                self._log.warning("batches wait", reason=error.message)
            room.clear()

    def _begin(self, batch: Unfinished, claim: Claim) -> None:
        run = BatchRun(self._workplace, batch, claim)
        if batch.cancelled:
            run.stop("cancelled")
        self._runs[batch.batch_id] = run, asyncio.create_task(self._run(batch.batch_id, run))

    async def _run(self, batch_id: str, run: BatchRun) -> None:
        """Work at a batch, and say how it ended; whatever happens, another run can go on."""
        try:
            await run.run()
        except BatchStoreFailed:
            pass  # it is in the log
        except Exception as error:
            self._log.error("batch failed for now", batch=batch_id, exc_info=error)
        finally:
            if run.ended is None and run.stopped != "lost":
                with contextlib.suppress(BatchStoreFailed):
                    await run.claim.release()
            del self._runs[batch_id]
        if (record := run.ended) is not None:
            self._ended(record)
            self._log.info(
                "batch ended",
                batch=record.id,
                status=record.status,
                requests=record.total,
                completed=record.completed,
                failed=record.failed,
            )
