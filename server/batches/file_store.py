"""Files of requests and of results, each of one owner.

An uploaded file is one object. The results of a batch are an object for each request, written as soon as it is done:
so a batch can be taken up where it was left, and a file of results is nothing but their list.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from hashlib import blake2b
from typing import NamedTuple

from server.batch_settings import BatchSettings
from server.batches.errors import BatchLimit, BatchStoreFailed
from server.batches.objects import Entry, GuardedObjects
from server.batches.records import FileRecord, Kind, is_file_id, made_at, new_id

_PIECE = 1 << 20
_ORPHAN_SECONDS = 3600.0
"""Age of a content whose file was never finished."""


class Usage(NamedTuple):
    """What the store holds.

    Attributes:
        files: of one owner.
        size: of all files and results of all owners, in bytes.
    """

    files: int
    size: int


def folder_of(owner: str) -> str:
    """Return the folder of an owner's files and batches: what is not in it does not exist for the owner."""
    return blake2b(owner.encode(), digest_size=16).hexdigest()


class FileStore:
    """Files by owner and id, and the results of batches.

    Args:
        objects: keeps them.
        settings: how much is kept, and for how long.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        objects: GuardedObjects,
        settings: BatchSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._objects = objects
        self._settings = settings
        self._clock = clock

    # Files.

    async def keep(
        self, folder: str, filename: str, data: bytes, seconds: float | None = None
    ) -> FileRecord:
        """Keep a file of requests.

        Args:
            folder: of its owner.
            filename: that it was sent with.
            data: its content.
            seconds: until it is removed; the longest allowed when None.

        Raises:
            BatchLimit: there is no room for it.
            BatchStoreFailed: the store failed.
        """
        usage = await self.usage(folder)
        if usage.files >= self._settings.batch_files_per_caller:
            raise BatchLimit(
                f"You have {usage.files:,} files, and {self._settings.batch_files_per_caller:,} are allowed; delete "
                "some."
            )
        self.require_room(usage.size + len(data))
        now = self._clock()
        record = FileRecord(
            id=new_id("file-", self._clock),
            filename=filename,
            size=len(data),
            created_at=int(now),
            expires_at=int(now + (seconds or self._settings.batch_stored_s)),
            purpose="batch",
        )
        await self._objects.write(f"files/{folder}/{record.id}/content", data)
        await self.describe(folder, record)
        return record

    async def describe(self, folder: str, record: FileRecord) -> None:
        """Write what is known of a file whose content is there; from then on it exists."""
        name = f"files/{folder}/{record.id}/about"
        await self._objects.write(name, record.model_dump_json().encode())

    async def find(self, folder: str, file_id: str) -> FileRecord | None:
        """Return a file, or None if the owner has none of this id or its time is over."""
        if not is_file_id(file_id):
            return None
        record = await self._read(f"files/{folder}/{file_id}/about")
        return record if record is not None and record.expires_at > self._clock() else None

    async def ids(self, folder: str) -> list[str]:
        """Return the ids of an owner's files, in the order in which they were made."""
        entries = await self._objects.entries(f"files/{folder}")
        return [e.name.split("/")[2] for e in entries if e.name.endswith("/about")]

    async def delete(self, folder: str, record: FileRecord) -> None:
        """Remove a file; of a file of results, the results too."""
        place = f"files/{folder}/{record.id}"
        names = [entry.name for entry in await self._parts(record)]
        await self._objects.remove([*names, f"{place}/content"])
        await self._objects.remove([f"{place}/about"])

    async def pieces(self, folder: str, record: FileRecord) -> AsyncIterator[bytes]:
        """Yield the content of a file.

        Raises:
            BatchStoreFailed: the store failed, or the file was removed meanwhile.
        """
        if record.batch_id is not None:
            for entry in await self._parts(record):
                yield _present(await self._objects.read(entry.name))
            return
        for start in range(0, record.size, _PIECE):
            yield await self.part(folder, record, start, min(_PIECE, record.size - start))

    async def part(self, folder: str, record: FileRecord, start: int, length: int) -> bytes:
        """Return a part of an uploaded file; raises like :meth:`pieces`."""
        name = f"files/{folder}/{record.id}/content"
        return _present(await self._objects.read(name, start, length))

    # Results of batches.

    async def keep_result(self, batch_id: str, kind: Kind, line: int | None, data: bytes) -> None:
        """Keep the result of a request, in place of an earlier one.

        Args:
            batch_id: of its batch.
            kind: whether it is images or an error.
            line: number of its line; None for the results of all requests that were never begun.
            data: lines for the file of results.
        """
        name = f"{line:08d}" if line is not None else "rest"
        await self._objects.write(f"results/{batch_id}/{kind}/{name}", data)

    async def results(self, batch_id: str) -> dict[Kind, list[Entry]]:
        """Return the results that a batch has so far."""
        found: dict[Kind, list[Entry]] = {"done": [], "failed": []}
        for entry in await self._objects.entries(f"results/{batch_id}"):
            kind: Kind = "done" if entry.name.split("/")[2] == "done" else "failed"
            found[kind].append(entry)
        return found

    async def remove_results(self, batch_id: str) -> None:
        """Remove all results of a batch."""
        entries = await self._objects.entries(f"results/{batch_id}")
        await self._objects.remove([entry.name for entry in entries])

    # Room.

    async def usage(self, folder: str = "") -> Usage:
        """Return what an owner, and what all owners have in the store."""
        entries = await self._objects.entries("files")
        results = await self._objects.entries("results")
        own = [e for e in entries if e.name.split("/")[1] == folder and e.name.endswith("/about")]
        return Usage(len(own), sum(e.size for e in (*entries, *results)))

    def require_room(self, size: int) -> None:
        """Refuse what would make the store larger than it may be.

        Raises:
            BatchLimit: the size is more than that.
        """
        if size > (most := self._settings.batch_stored_bytes):
            raise BatchLimit(
                f"The server keeps {most:,} bytes of files and results at most, and has no room for more; delete "
                "files that are not needed."
            )

    async def sweep(self, in_use: Iterable[str]) -> None:
        """Remove files whose time is over.

        Args:
            in_use: ids of files that stay all the same, as the input of unfinished batches.
        """
        now, needed = self._clock(), frozenset(in_use)
        names = {entry.name for entry in await self._objects.entries("files")}
        for name in sorted(names):
            _, folder, file_id, what = name.split("/")
            if what == "content":
                orphan = f"files/{folder}/{file_id}/about" not in names
                if orphan and made_at(file_id) + _ORPHAN_SECONDS <= now:
                    await self._objects.remove([name])
            elif file_id not in needed:
                record = await self._read(name)
                if record is not None and record.expires_at <= now:
                    await self.delete(folder, record)

    async def _parts(self, record: FileRecord) -> list[Entry]:
        """Return the objects that a file of results consists of."""
        if record.batch_id is None:
            return []
        return await self._objects.entries(f"results/{record.batch_id}/{record.kind}")

    async def _read(self, name: str) -> FileRecord | None:
        data = await self._objects.read(name)
        return FileRecord.model_validate_json(data) if data is not None else None


def _present(data: bytes | None) -> bytes:
    if data is None:
        raise BatchStoreFailed("The file was removed while it was read; it is gone.")
    return data
