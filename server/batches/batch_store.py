"""Batches, each of one owner, and the marks of those that are not finished.

A batch's record is written by whoever made it, and then by the server that works at it alone. All else that happens to
an unfinished batch is a mark of its own beside the others: that it was begun, that it is to be cancelled, and who works
at it. So one listing tells a server what there is to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from server.batch_settings import BatchSettings
from server.batches.claims import CLAIM, Unfinished
from server.batches.errors import BatchLimit
from server.batches.file_store import FileStore, folder_of
from server.batches.objects import GuardedObjects
from server.batches.records import BatchRecord, is_batch_id, made_at

_BEGUN, _CANCELLED = "begun", "cancelled"
_ORPHAN_SECONDS = 3600.0
"""Age of a mark whose batch was never written."""


class BatchStore:
    """Batches by owner and id.

    Args:
        objects: keeps them.
        files: has the files of requests and the results.
        settings: how many there may be, and for how long they are kept.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        objects: GuardedObjects,
        files: FileStore,
        settings: BatchSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._objects = objects
        self._files = files
        self._settings = settings
        self._clock = clock

    async def create(self, record: BatchRecord) -> None:
        """Keep a new batch.

        Raises:
            BatchLimit: its owner has too many that are not finished, or the store is full.
            BatchStoreFailed: the store failed.
        """
        folder, most = folder_of(record.owner), self._settings.batches_per_caller
        if len(await self.unfinished(folder)) >= most:
            raise BatchLimit(
                f"You have {most:,} unfinished batches, and no more are allowed; wait for one to end, or cancel one."
            )
        self._files.require_room((await self._files.usage()).size)
        await self._objects.write(f"unfinished/{folder}/{record.id}/{_BEGUN}", b"")
        await self.save(record)

    async def save(self, record: BatchRecord) -> None:
        """Keep the state of a batch."""
        name = f"batches/{folder_of(record.owner)}/{record.id}"
        await self._objects.write(name, record.model_dump_json().encode())

    async def find(self, folder: str, batch_id: str) -> BatchRecord | None:
        """Return a batch as its record has it, or None if the owner has none of this id."""
        if not is_batch_id(batch_id):
            return None
        data = await self._objects.read(f"batches/{folder}/{batch_id}")
        return BatchRecord.model_validate_json(data) if data is not None else None

    async def current(self, folder: str, batch_id: str) -> BatchRecord | None:
        """Return a batch as it is at this moment, with its results so far and a wish to cancel it."""
        record = await self.find(folder, batch_id)
        if record is None or record.ended:
            return record
        results = await self._files.results(batch_id)
        counts = {"completed": len(results["done"]), "failed": len(results["failed"])}
        record = record.model_copy(update=counts)
        wish = await self.cancelled_at(Unfinished(folder, batch_id))
        return record.now("cancelling", wish) if wish is not None else record

    async def ids(self, folder: str) -> list[str]:
        """Return the ids of an owner's batches, in the order in which they were made."""
        entries = await self._objects.entries(f"batches/{folder}")
        return [entry.name.rpartition("/")[2] for entry in entries]

    async def cancel(self, folder: str, batch_id: str) -> None:
        """Note that an unfinished batch is to be cancelled."""
        name = f"unfinished/{folder}/{batch_id}/{_CANCELLED}"
        await self._objects.create(name, str(int(self._clock())).encode())

    # For those that work at batches.

    async def unfinished(self, folder: str | None = None) -> list[Unfinished]:
        """Return the unfinished batches of an owner, or of all, in the order in which they were made."""
        found: dict[str, Unfinished] = {}
        place = "unfinished" if folder is None else f"unfinished/{folder}"
        for entry in await self._objects.entries(place):
            _, owner, batch_id, mark = entry.name.split("/")
            batch = found.setdefault(batch_id, Unfinished(owner, batch_id))
            if mark == _CANCELLED:
                batch.cancelled = True
            elif mark.startswith(CLAIM):
                batch.claims.append(int(mark.removeprefix(CLAIM)))
        return [found[batch_id] for batch_id in sorted(found)]

    async def cancelled_at(self, batch: Unfinished) -> int | None:
        """Return when the owner wished to cancel an unfinished batch, in seconds since the epoch."""
        mark = await self._objects.read(f"{batch.place}/{_CANCELLED}")
        return int(mark) if mark else None

    async def finish(self, batch: Unfinished) -> None:
        """Remove the marks of a batch whose record says that it has ended."""
        entries = await self._objects.entries(batch.place)
        await self._objects.remove([entry.name for entry in entries])

    async def sweep(self) -> None:
        """Remove what is over: batches that ended long ago, marks without a batch, and files."""
        now = self._clock()
        inputs: list[str] = []
        for batch in await self.unfinished():
            record = await self.find(batch.folder, batch.batch_id)
            if record is not None:
                inputs.append(record.input_file_id)
            elif made_at(batch.batch_id) + _ORPHAN_SECONDS <= now:
                await self.finish(batch)
        for entry in await self._objects.entries("batches"):
            _, folder, batch_id = entry.name.split("/")
            if made_at(batch_id) + self._settings.batch_stored_s > now:
                continue
            record = await self.find(folder, batch_id)
            ended = record.ended_at if record is not None else None
            if ended is not None and ended + self._settings.batch_stored_s <= now:
                await self._files.remove_results(batch_id)
                await self._objects.remove([entry.name])
        await self._files.sweep(inputs)
