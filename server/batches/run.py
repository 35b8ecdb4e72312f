"""One batch, from its file of requests to its files of results."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import structlog

from server.batch_settings import BatchSettings
from server.batches.batch_store import BatchStore
from server.batches.claims import Claim, Unfinished
from server.batches.errors import BatchStoreFailed
from server.batches.file_store import FileStore
from server.batches.lines import Line, LineReader, body_of
from server.batches.records import BatchRecord, Endpoint, FileRecord, Kind, Problem, Status, new_id
from server.errors import InternalError, ServerError
from server.http.shortage import shortage_of

T = TypeVar("T")

Stop = Literal["cancelled", "expired", "lost", "closing"]
"""Why no further request is begun: by the owner's wish, by the time, another server has the batch, this one ends."""

_ATTEMPTS = 3
"""Times that a request is begun which the engine fails to paint, through a fault that may pass."""
_PAUSE_SECONDS = 1.0
_STORE_PAUSE_SECONDS = 10.0
_GRACE_SECONDS = 5.0
"""How long results may take to be written when the server ends."""

_GIVEN_UP: dict[Stop, tuple[str, str]] = {
    "expired": (
        "batch_expired",
        "The completion window of the batch passed before this request was begun; send it again in another batch.",
    ),
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was begun."),
}


@dataclass(frozen=True)
class LineRequest:
    """A request of a batch, to be answered as its route would.

    Args:
        endpoint: path of the route.
        body: JSON.
        request_id: for logs.
        owner: name of the key that made the batch; empty without keys.
        seconds: until the batch expires.
    """

    endpoint: Endpoint
    body: bytes
    request_id: str
    owner: str
    seconds: float


Serve = Callable[[LineRequest], Awaitable[bytes]]
"""Returns the body of an answer with status 200, or raises a :class:`ServerError`."""


@dataclass
class Workplace:
    """What all batches of one server share.

    Args:
        settings: of the server.
        files: has the files of requests, and takes the results.
        batches: keeps the states.
        serve: answers a request.
        longest: bytes that a request of an endpoint may have.
        count: called with the kind of each new result.
        clock: seconds since the epoch.

    Attributes:
        places: one for each request that may be in work; whoever has waited longest gets the next.
        room: set while the store has room for results.
    """

    settings: BatchSettings
    files: FileStore
    batches: BatchStore
    serve: Serve
    longest: Callable[[Endpoint], int]
    count: Callable[[Kind], None] = lambda _: None
    clock: Callable[[], float] = time.time
    places: asyncio.Semaphore = field(init=False)
    room: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.places = asyncio.Semaphore(self.settings.batch_concurrency)
        self.room.set()


class BatchRun:
    """A server's work at one batch.

    Args:
        workplace: of the server.
        batch: marks of the batch.
        claim: of this server.

    Attributes:
        claim: of this server.
        stopped: why no further request is begun, if so.
        ended: the batch, once this run has brought it to its end.
    """

    def __init__(self, workplace: Workplace, batch: Unfinished, claim: Claim) -> None:
        self.claim = claim
        self.stopped: Stop | None = None
        self.ended: BatchRecord | None = None
        self._work = workplace
        self._batch = batch
        self._stop = asyncio.Event()
        self._writes: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("star.batches")

    def stop(self, why: Stop) -> None:
        """Begin no further request; the first reason stands."""
        if self.stopped is None:
            self.stopped = why
            self._stop.set()

    async def run(self) -> None:
        """Work at the batch until it ends or is to be left.

        Raises:
            BatchStoreFailed: the store failed; what is done is kept, and another run can go on.
        """
        record = await self._work.batches.find(self._batch.folder, self._batch.batch_id)
        if record is None:  # its maker has not come to write it
            return
        if not record.ended:
            record = await self._through(record)
            self.ended = record if record.ended else None
        if record.ended:
            await self._work.batches.finish(self._batch)

    async def _through(self, record: BatchRecord) -> BatchRecord:
        """Take a batch as far as it can be taken."""
        if record.ending is not None:
            return await self._close(record, record.ending)
        file = await self._work.files.find(self._batch.folder, record.input_file_id)
        lines, problems = await self._read(record, file)
        if file is None or problems:
            record = record.now("failed", self._work.clock(), errors=problems)
            await self._work.batches.save(record)
            return record
        if record.status == "validating":
            record = record.now("in_progress", self._work.clock(), total=len(lines))
            await self._work.batches.save(record)
        self._log.info("batch goes on", batch=record.id, requests=record.total)
        ending = await self._paint(record, file, lines)
        return record if ending is None else await self._close(record, ending)

    async def _read(
        self, record: BatchRecord, file: FileRecord | None
    ) -> tuple[list[Line], list[Problem]]:
        """Find the requests of a batch."""
        if file is None:
            message = "The file of requests is no longer there; upload it again."
            return [], [Problem(code="file_not_found", message=message, param="input_file_id")]
        endpoint, most = record.endpoint, self._work.settings.batch_requests
        reader = LineReader(endpoint, most, self._work.longest(endpoint))
        async for piece in self._work.files.pieces(self._batch.folder, file):
            await asyncio.to_thread(reader.feed, piece)
            if reader.stopped:
                break
        await asyncio.to_thread(reader.end)
        return reader.lines, reader.problems

    # The requests.

    async def _paint(
        self, record: BatchRecord, file: FileRecord, lines: Sequence[Line]
    ) -> Status | None:
        """Answer the requests that have no result yet; return what becomes of the batch, None if it is left."""
        undone = await self._undone(record, lines)
        work = asyncio.create_task(self._offer(record, file, undone))
        stop = asyncio.create_task(self._stop.wait())
        left = max(record.expires_at - self._work.clock(), 0)
        try:
            await asyncio.wait({work, stop}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if self.stopped == "closing":
                await asyncio.wait({work}, timeout=_GRACE_SECONDS)
            if work.done():
                work.result()
            else:
                self.stop("expired")
        finally:
            work.cancel()
            stop.cancel()
            await asyncio.gather(work, stop, *self._writes, return_exceptions=True)
        if self.stopped in ("lost", "closing"):
            return None
        undone = await self._undone(record, lines)
        if self.stopped is None or not undone:
            return "completed"
        code, message = _GIVEN_UP[self.stopped]
        rest = [_result(record, line, error={"code": code, "message": message}) for line in undone]
        await self._work.files.keep_result(record.id, "failed", None, b"".join(rest))
        return "cancelled" if self.stopped == "cancelled" else "expired"

    async def _undone(self, record: BatchRecord, lines: Sequence[Line]) -> list[Line]:
        results = await self._work.files.results(record.id)
        done = {entry.name.rpartition("/")[2] for kind in results.values() for entry in kind}
        return [line for line in lines if f"{line.number:08d}" not in done]

    async def _offer(self, record: BatchRecord, file: FileRecord, lines: Sequence[Line]) -> None:
        """Begin one request after the other, as places become free."""
        places = self._work.places
        async with asyncio.TaskGroup() as group:
            for line in lines:
                await self._work.room.wait()
                await places.acquire()
                if self._stop.is_set():
                    places.release()
                    return
                task = group.create_task(self._answer(record, file, line))
                task.add_done_callback(lambda _: places.release())

    async def _answer(self, record: BatchRecord, file: FileRecord, line: Line) -> None:
        """Answer a request and keep the result, unless the batch is left before."""
        files, folder = self._work.files, self._batch.folder
        data = await self._stored(lambda: files.part(folder, file, line.start, line.length))
        if data is None or (result := await self._result(record, line, data)) is None:
            return
        # Once begun, it is written to its end: what has a result is not given up too.
        writing = asyncio.create_task(self._keep(record, line, *result))
        self._writes.add(writing)
        writing.add_done_callback(self._writes.discard)
        await asyncio.shield(writing)

    async def _keep(self, record: BatchRecord, line: Line, kind: Kind, text: bytes) -> None:
        files = self._work.files
        await self._stored(lambda: files.keep_result(record.id, kind, line.number, text))
        self._work.count(kind)

    async def _result(
        self, record: BatchRecord, line: Line, data: bytes
    ) -> tuple[Kind, bytes] | None:
        """Answer a request; None if the batch is left before."""
        begun = 0
        while not self._stop.is_set():
            try:
                asked = LineRequest(
                    record.endpoint,
                    body_of(data),
                    _request_id(record, line),
                    record.owner,
                    max(record.expires_at - self._work.clock(), 0),
                )
                body = await self._work.serve(asked)
                return "done", _result(record, line, 200, body)
            except Exception as fault:
                error = self._error_of(fault, record, line)
            begun += error.outcome != "rejected"
            if not error.retryable or begun == _ATTEMPTS:
                body = json.dumps(error.envelope()).encode("ascii")
                return "failed", _result(record, line, error.status, body)
            await self._pause(error.retry_after or _PAUSE_SECONDS)
        return None

    def _error_of(self, fault: Exception, record: BatchRecord, line: Line) -> ServerError:
        """Return the error that a request over HTTP would get for what it raised."""
        if isinstance(fault, ServerError):
            return fault
        self._log.error("unhandled error", request_id=_request_id(record, line), exc_info=fault)
        return shortage_of(fault) or InternalError(
            "The server failed to handle this request; its log says why."
        )

    async def _stored(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """Do work with the store, again and again until it succeeds; None if the batch is left before.

        What has been painted is worth waiting for: a disk that is full may have room again.
        """
        while True:
            try:
                return await work()
            except BatchStoreFailed:
                if self._stop.is_set():
                    return None
                await self._pause(_STORE_PAUSE_SECONDS)

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until the batch is left."""
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            pass

    # The end.

    async def _close(self, record: BatchRecord, ending: Status) -> BatchRecord:
        """Write the files of results. Done a second time after a crash, it does the same."""
        work = self._work
        results = await work.files.results(record.id)
        completed = len(results["done"])
        ids: dict[Kind, str | None] = {
            "done": record.output_file_id,
            "failed": record.error_file_id,
        }
        for kind, entries in results.items():
            if entries and ids[kind] is None:
                ids[kind] = new_id("file-", work.clock)
        if record.ending is None:
            record = record.now(
                "finalizing",
                work.clock(),
                ending=ending,
                completed=completed,
                failed=record.total - completed,
                output_file_id=ids["done"],
                error_file_id=ids["failed"],
            )
            await work.batches.save(record)
        now = work.clock()
        for kind, entries in results.items():
            if (file_id := ids[kind]) is not None:
                what = "output" if kind == "done" else "errors"
                file = FileRecord(
                    id=file_id,
                    filename=f"{record.id}_{what}.jsonl",
                    size=sum(entry.size for entry in entries),
                    created_at=int(now),
                    expires_at=int(now + record.output_seconds),
                    purpose="batch_output",
                    batch_id=record.id,
                    kind=kind,
                )
                await work.files.describe(self._batch.folder, file)
        wish = await work.batches.cancelled_at(self._batch)
        record = record.now(ending, work.clock(), cancelling_at=wish)
        await work.batches.save(record)
        return record


def _request_id(record: BatchRecord, line: Line) -> str:
    return f"{record.id}-{line.number}"


def _result(
    record: BatchRecord,
    line: Line,
    status: int | None = None,
    body: bytes = b"",
    error: dict[str, str] | None = None,
) -> bytes:
    """Return a line of a file of results: an answer with its status, or an error in place of one.

    Args:
        record: of the batch.
        line: the request.
        status: of the answer.
        body: of the answer, JSON without line breaks; it may be large and is not read again.
        error: code and message.
    """
    number = f"batch_req_{record.id.removeprefix('batch_')}{line.number:08d}"
    head = f'{{"id": "{number}", "custom_id": {json.dumps(line.custom_id)}, "response": '
    if status is None:
        return f'{head}null, "error": {json.dumps(error)}}}\n'.encode("ascii")
    answer = f'{{"status_code": {status}, "request_id": "{_request_id(record, line)}", "body": '
    return f"{head}{answer}".encode("ascii") + body + b'}, "error": null}\n'
