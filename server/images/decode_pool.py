"""A few processes that decode uploaded images, started when the first edit comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from server.errors import InternalError, Overloaded, UnusableImage, UploadReason
from server.images.decode_process import DecodeProcess, EditSource
from server.messages import ImageEdit


class DecodePool:
    """Decodes the files of edits in processes of its own, away from the event loop and the encoding of answers.

    Args:
        processes: number of processes at most.
        timeout_s: seconds that one edit may take, waiting for a process not included.
        memory_bytes: address space of a process.
        observe: called with the seconds that each edit took.
        refused: called with the reason when a file is refused.
    """

    def __init__(
        self,
        processes: int,
        timeout_s: float,
        memory_bytes: int,
        observe: Callable[[float], None],
        refused: Callable[[UploadReason], None],
    ) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._observe = observe
        self._refused = refused
        self._free = asyncio.Semaphore(processes)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="image-decoder")
        self._idle: list[DecodeProcess] = []
        self._busy: set[DecodeProcess] = set()
        self._closed = False
        self._log = structlog.get_logger("star.images")

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that run."""
        return [pid for one in (*self._idle, *self._busy) if (pid := one.pid) is not None]

    async def decode(self, source: EditSource, admit: Callable[[], None]) -> ImageEdit:
        """Decode the files of an edit. Cancelling this kills the process that decodes them.

        Args:
            source: the files, and how they are to be used.
            admit: called when a process is free; raises to refuse the request after all.

        Raises:
            InvalidRequest: the edit is impossible.
            UnusableImage: a file is unusable, or exceeded the limits.
            Overloaded: no process could be started.
        """
        async with self._free:
            admit()
            started = time.perf_counter()
            try:
                return await self._decode(source)
            except UnusableImage as error:
                self._refused(error.reason)
                raise
            finally:
                self._observe(time.perf_counter() - started)

    async def _decode(self, source: EditSource) -> ImageEdit:
        process = await self._process()
        self._busy.add(process)
        try:
            return await self._decode_in(process, source)
        except OSError as error:
            process.kill()
            self._log.error("image_decoder_failed", error=str(error))
            raise _cannot_start() from error
        finally:
            self._busy.discard(process)
            self._put_back(process)

    async def _decode_in(self, process: DecodeProcess, source: EditSource) -> ImageEdit:
        try:
            work = asyncio.get_running_loop().run_in_executor(self._threads, process.decode, source)
        except RuntimeError as error:  # no more threads, or the pool is closed
            raise OSError(str(error)) from error
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            process.kill()
            await asyncio.wait({work})  # the pipe of a dead process ends, so this is short
            if not work.cancelled():
                work.exception()  # seen: nobody waits for it
            raise

    async def _process(self) -> DecodeProcess:
        while self._idle:
            process = self._idle.pop()
            if process.usable:
                return process
            process.close()
        if self._closed:
            raise InternalError("The server is stopping.")
        try:
            return DecodeProcess(self._timeout_s, self._memory_bytes)
        except OSError as error:  # no memory, no descriptors, or too many processes
            self._log.error("image_decoder_not_started", error=str(error))
            raise _cannot_start() from error

    def _put_back(self, process: DecodeProcess) -> None:
        if self._closed or not process.usable:
            process.close()
        else:
            self._idle.append(process)

    def close(self) -> None:
        """Kill the processes; what they decode fails."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        for process in self._busy:
            process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)


def _cannot_start() -> Overloaded:
    return Overloaded(
        "The server is short of memory, processes or file descriptors and cannot decode images right now. Try again.",
        retry_after=5,
    )
