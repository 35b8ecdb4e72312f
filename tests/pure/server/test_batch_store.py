"""The store of batches: objects in a directory, whose they are, who works at them, how long they stay."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from server.batches.batch_store import BatchStore
from server.batches.claims import Claim, Unfinished
from server.batches.directory import DirectoryObjects
from server.batches.errors import BatchLimit, BatchStoreFailed
from server.batches.file_store import FileStore, folder_of
from server.batches.objects import Entry, GuardedObjects
from server.batches.records import BatchRecord, FileRecord, is_batch_id, is_file_id, made_at, new_id
from server.settings import Settings
from server.settings_file import SettingsFileError

pytestmark = pytest.mark.anyio
DAY = 86_400.0


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Stores:
    """A store of batches, at a time of the test's choice."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.clock = Clock()
        self.failures: list[str] = []
        self.objects = GuardedObjects(DirectoryObjects(root), self.failures.append)
        given = Settings.model_validate({"batch_stored_s": 30 * DAY, **settings})
        self.files = FileStore(self.objects, given, self.clock)
        self.batches = BatchStore(self.objects, self.files, given, self.clock)

    def record(self, owner: str = "me", **changes: object) -> BatchRecord:
        now = int(self.clock())
        values = {
            "id": new_id("batch_", self.clock),
            "owner": owner,
            "endpoint": "/v1/images/generations",
            "input_file_id": new_id("file-", self.clock),
            "completion_window": "1h",
            "created_at": now,
            "expires_at": now + 3600,
            "output_seconds": 3600,
        }
        return BatchRecord.model_validate(values | changes)

    async def names(self) -> set[str]:
        folders = ("files", "results", "batches", "unfinished")
        return {entry.name for f in folders for entry in await self.objects.entries(f)}


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path)


ME = folder_of("me")


# ---- objects in a directory --------------------------------------------------------------------------------
async def test_objects_are_written_read_listed_and_removed(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    assert await objects.read("a/b") is None
    await objects.write("a/b", b"0123456789")
    await objects.write("a/c/d", b"x")
    await objects.write("ab", b"x")
    assert await objects.read("a/b") == b"0123456789"
    assert await objects.read("a/b", 2, 3) == b"234"
    assert await objects.read("a/b/c") is None
    assert await objects.entries("a") == [Entry("a/b", 10), Entry("a/c/d", 1)]
    assert await objects.entries("nothing") == []
    await objects.remove(["a/b", "a/c/d", "a/gone"])
    assert await objects.entries("a") == []
    assert not (tmp_path / "a").exists(), "folders that are empty are removed"
    await objects.close()


async def test_one_of_many_creates_an_object(tmp_path: Path) -> None:
    objects = [DirectoryObjects(tmp_path) for _ in range(8)]
    created = await asyncio.gather(*(each.create("a/b", b"x") for each in objects))
    assert sum(created) == 1
    for each in objects:
        await each.close()


async def test_folders_come_and_go_under_those_who_write(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)

    async def write_and_remove(number: int) -> None:
        for _ in range(50):
            await objects.write(f"a/b/{number}", b"x")
            await objects.remove([f"a/b/{number}"])

    await asyncio.gather(*map(write_and_remove, range(4)))
    assert await objects.entries("a") == []
    await objects.close()


async def test_what_a_server_that_died_had_not_written_is_removed(tmp_path: Path) -> None:
    parts = tmp_path / "unfinished-files"
    parts.mkdir()
    for name, age in {"old": 3600, "new": 0}.items():
        (parts / name).write_bytes(b"x")
        os.utime(parts / name, (time.time() - age, time.time() - age))
    await DirectoryObjects(tmp_path).close()
    assert [part.name for part in parts.iterdir()] == ["new"]


async def test_a_directory_that_cannot_be_used_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsFileError, match="batch_store: nothing can be written"):
        DirectoryObjects(tmp_path / "file")


async def test_a_failure_is_told_and_counted(stores: Stores, tmp_path: Path) -> None:
    (tmp_path / "files").write_bytes(b"in the way")
    with pytest.raises(BatchStoreFailed) as failed:
        await stores.files.keep(ME, "name", b"data")
    assert failed.value.retry_after
    assert stores.failures == ["list"]


# ---- ids ---------------------------------------------------------------------------------------------------
def test_ids_tell_their_time_and_are_in_its_order() -> None:
    clock = Clock()
    ids = []
    for _ in range(20):
        ids.append(new_id("file-", clock))
        clock.now += 0.01
    assert ids == sorted(set(ids))
    assert made_at(ids[0]) == 1_800_000_000.0
    assert all(map(is_file_id, ids))
    assert is_batch_id(new_id("batch_", clock))
    for bad in ("", "file-", "../file-x", ids[0] + "/..", ids[0].upper(), "batch_" + ids[0][5:]):
        assert not is_file_id(bad)


# ---- whose they are, and how many --------------------------------------------------------------------------
async def test_what_another_owner_has_is_not_there(stores: Stores) -> None:
    file = await stores.files.keep(ME, "name", b"data")
    record = stores.record()
    await stores.batches.create(record)
    other = folder_of("other")
    assert await stores.files.find(other, file.id) is None
    assert await stores.files.ids(other) == []
    assert await stores.batches.find(other, record.id) is None
    assert await stores.batches.ids(other) == []
    assert await stores.files.find(ME, file.id) == file
    assert await stores.batches.current(ME, record.id) == record


async def test_an_id_is_not_a_path(stores: Stores) -> None:
    file = await stores.files.keep(ME, "name", b"data")
    assert await stores.files.find(folder_of("other"), f"../{ME}/{file.id}") is None
    assert await stores.batches.find(ME, f"../../files/{ME}/{file.id}/about") is None


async def test_the_store_has_bounds(tmp_path: Path) -> None:
    stores = Stores(tmp_path, batch_stored_bytes=1 << 20)
    await stores.files.keep(ME, "name", b"x" * 900_000)
    with pytest.raises(BatchLimit, match="no room"):
        await stores.files.keep(ME, "name", b"x" * 200_000)
    await stores.files.keep_result("batch_1", "done", 1, b"x" * 200_000)
    with pytest.raises(BatchLimit, match="no room"):
        await stores.batches.create(stores.record())


# ---- claims ------------------------------------------------------------------------------------------------
async def listed(stores: Stores) -> Unfinished:
    (batch,) = await stores.batches.unfinished()
    return batch


async def take(stores: Stores, server: str, batch: Unfinished | None = None) -> Claim | None:
    batch = batch or await listed(stores)
    return await Claim.take(stores.objects, batch, server, 60, stores.clock)


async def test_one_server_works_at_a_batch(stores: Stores) -> None:
    await stores.batches.create(stores.record())
    seen = await listed(stores)
    claims = [await take(stores, name, seen) for name in ("a", "b")]
    assert claims[0] is not None
    assert claims[1] is None, "it saw no claim, and was too late all the same"
    stores.clock.now += 59
    assert await take(stores, "b") is None
    assert await claims[0].refresh(await listed(stores))
    stores.clock.now += 59
    assert await take(stores, "b") is None, "it was refreshed"


async def test_a_server_that_died_loses_its_claim(stores: Stores) -> None:
    await stores.batches.create(stores.record())
    first = await take(stores, "a")
    assert first is not None
    stores.clock.now += 61
    seen = await listed(stores)
    second = await take(stores, "b", seen)
    assert second is not None
    assert await take(stores, "c", seen) is None, "of several, one is first"
    assert not await first.refresh(await listed(stores)), "it was not dead, and is told"
    assert await second.refresh(await listed(stores))


async def test_a_server_that_stops_gives_its_claim_back(stores: Stores) -> None:
    await stores.batches.create(stores.record())
    first = await take(stores, "a")
    assert first is not None
    await first.release()
    second = await take(stores, "b")
    assert second is not None
    assert not await first.refresh(await listed(stores)), "the same number is another claim"


# ---- states ------------------------------------------------------------------------------------------------
async def test_a_batch_shows_its_results_and_the_wish_to_cancel_it(stores: Stores) -> None:
    record = stores.record().now("in_progress", stores.clock(), total=3)
    await stores.batches.create(record)
    await stores.files.keep_result(record.id, "done", 1, b"x\n")
    await stores.files.keep_result(record.id, "failed", 2, b"x\n")
    found = await stores.batches.current(ME, record.id)
    assert found is not None
    assert (found.status, found.completed, found.failed) == ("in_progress", 1, 1)
    stores.clock.now += 10.9
    await stores.batches.cancel(ME, record.id)
    stores.clock.now += 10
    await stores.batches.cancel(ME, record.id)
    found = await stores.batches.current(ME, record.id)
    assert found is not None
    assert (found.status, found.cancelling_at) == ("cancelling", 1_800_000_010)
    assert (await listed(stores)).cancelled


# ---- what is over ------------------------------------------------------------------------------------------
async def ended_batch(stores: Stores) -> tuple[BatchRecord, FileRecord]:
    """A batch that has ended, with a file of results."""
    record = stores.record()
    await stores.batches.create(record)
    await stores.files.keep_result(record.id, "done", 1, b"x\n")
    file = FileRecord(
        id=new_id("file-", stores.clock),
        filename="out",
        size=2,
        created_at=int(stores.clock()),
        expires_at=int(stores.clock() + DAY),
        purpose="batch_output",
        batch_id=record.id,
        kind="done",
    )
    await stores.files.describe(ME, file)
    record = record.now("completed", stores.clock(), output_file_id=file.id)
    await stores.batches.save(record)
    await stores.batches.finish(await listed(stores))
    return record, file


async def test_what_is_over_is_removed(stores: Stores) -> None:
    record, file = await ended_batch(stores)
    short = await stores.files.keep(ME, "short", b"x", seconds=60)
    long = await stores.files.keep(ME, "long", b"x")
    stores.clock.now += 61
    assert await stores.files.find(ME, short.id) is None, "before it is swept"
    await stores.batches.sweep()
    assert await stores.files.ids(ME) == sorted([file.id, long.id])
    stores.clock.now += DAY
    await stores.batches.sweep()
    assert await stores.files.ids(ME) == [long.id]
    assert not [name for name in await stores.names() if name.startswith("results/")]
    assert await stores.batches.find(ME, record.id) is not None
    stores.clock.now += 30 * DAY
    await stores.batches.sweep()
    assert await stores.names() == set()


async def test_the_input_of_an_unfinished_batch_stays(stores: Stores) -> None:
    file = await stores.files.keep(ME, "input", b"x", seconds=60)
    await stores.batches.create(stores.record(input_file_id=file.id))
    stores.clock.now += 120
    before = await stores.names()
    await stores.batches.sweep()
    assert await stores.names() == before


@pytest.mark.parametrize(
    "name",
    [
        lambda clock: f"files/{ME}/{new_id('file-', clock)}/content",
        lambda clock: f"unfinished/{ME}/{new_id('batch_', clock)}/begun",
    ],
    ids=["upload", "batch"],
)
async def test_what_was_never_written_to_its_end_is_removed(
    stores: Stores, name: Callable[[Clock], str]
) -> None:
    await stores.objects.write(name(stores.clock), b"x")
    await stores.batches.sweep()
    assert len(await stores.names()) == 1, "its maker may be about to go on"
    stores.clock.now += 3601
    await stores.batches.sweep()
    assert await stores.names() == set()
