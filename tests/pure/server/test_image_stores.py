"""The stores behind ``response_format: "url"``: bounded, for a time, and with failures that are told."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from server.errors import ImageStoreFailed
from server.images.stores.directory import DirectoryBackend
from server.images.stores.memory import MemoryBackend
from server.images.stores.opening import open_store
from server.images.stores.s3 import S3Backend
from server.images.stores.store import (
    Backend,
    BackendError,
    ImageStore,
    Operation,
    StoredImage,
    is_image_name,
)
from server.settings import Settings
from server.settings_file import SettingsFileError

pytestmark = pytest.mark.anyio
MakeBackend = Callable[..., Backend]


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def name(number: int) -> str:
    return f"{number:032d}.png"


@pytest.fixture(params=["memory", "directory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> MakeBackend:
    def make_backend(files: int, size: int, seconds: float, clock: Clock) -> Backend:
        if request.param == "memory":
            return MemoryBackend(files, size, seconds, clock)
        return DirectoryBackend(tmp_path / "images", files, size, seconds, clock)

    return make_backend


async def kept(backend: Backend, count: int) -> list[bool]:
    return [await backend.read(name(i)) is not None for i in range(count)]


# ---- every backend -----------------------------------------------------------------------------------------
async def test_a_file_can_be_read_until_its_time_is_over(make: MakeBackend) -> None:
    clock = Clock()
    backend = make(10, 1000, 60, clock)
    await backend.write(name(0), b"file")
    clock.now += 59.9
    assert await backend.read(name(0)) == b"file"
    clock.now += 0.1
    assert await backend.read(name(0)) is None
    assert await backend.read(name(1)) is None


async def test_the_count_is_bounded(make: MakeBackend) -> None:
    clock = Clock()
    backend = make(3, 1000, 60, clock)
    for i in range(5):
        await backend.write(name(i), b"file")
        clock.now += 1
    assert await kept(backend, 5) == [False, False, True, True, True]


async def test_the_bytes_are_bounded(make: MakeBackend) -> None:
    clock = Clock()
    backend = make(100, 25, 60, clock)
    for i in range(3):
        await backend.write(name(i), bytes(10))
        clock.now += 1
    assert await kept(backend, 3) == [False, True, True]


async def test_time_frees_room(make: MakeBackend) -> None:
    clock = Clock()
    backend = make(2, 20, 60, clock)
    await backend.write(name(0), bytes(10))
    clock.now += 50
    await backend.write(name(1), bytes(10))
    clock.now += 20
    await backend.write(name(2), bytes(10))
    assert await kept(backend, 3) == [False, True, True]


async def test_memory_drops_what_nobody_fetches() -> None:
    backend = MemoryBackend(2, 1000, 60)
    await backend.write(name(0), b"a")
    await backend.write(name(1), b"b")
    await backend.read(name(0))
    await backend.write(name(2), b"c")
    assert await kept(backend, 3) == [True, False, True]


# ---- the directory -----------------------------------------------------------------------------------------
def files_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def test_a_sweep_removes_what_is_expired_or_unfinished_and_nothing_else(
    tmp_path: Path,
) -> None:
    clock = Clock()
    backend = DirectoryBackend(tmp_path, 10, 1000, 60, clock)
    await backend.write(name(0), b"old")
    for foreign in (".part-abandoned", "notes.txt", "image.png"):
        (tmp_path / foreign).write_text("x")
        os.utime(tmp_path / foreign, (clock.now, clock.now))
    clock.now += 1000
    await backend.write(name(1), b"new")
    (tmp_path / ".part-begun").touch()
    os.utime(tmp_path / ".part-begun", (clock.now, clock.now))
    await backend.sweep()
    assert files_in(tmp_path) == {"notes.txt", "image.png", name(1), ".part-begun"}


async def test_several_processes_share_a_directory_and_sweep_it_at_once(tmp_path: Path) -> None:
    clock = Clock()
    backends = [DirectoryBackend(tmp_path, 20, 10_000, 60, clock) for _ in range(4)]

    async def use(backend: DirectoryBackend, first: int) -> None:
        for i in range(first, first + 50):
            await backend.write(name(i), bytes(10))
            await backend.sweep()

    async with asyncio.TaskGroup() as tasks:
        for i, backend in enumerate(backends):
            tasks.create_task(use(backend, 100 * i))
    assert len(files_in(tmp_path)) == 20
    names = files_in(tmp_path)
    assert [await backends[0].read(each) for each in names] == [bytes(10)] * 20


async def test_a_directory_survives_a_restart(tmp_path: Path) -> None:
    first = DirectoryBackend(tmp_path, 10, 1000, 60)
    await first.write(name(0), b"file")
    await first.close()
    assert await DirectoryBackend(tmp_path, 10, 1000, 60).read(name(0)) == b"file"


async def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = DirectoryBackend(tmp_path, 10, 1000, 60)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackendError, match="No space left on device"):
        await backend.write(name(0), b"file")
    assert files_in(tmp_path) == set()


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    backend = DirectoryBackend(tmp_path / "images", 10, 1000, 60)
    (tmp_path / "images" / name(0)).symlink_to(secret)
    with pytest.raises(BackendError):
        await backend.read(name(0))


# ---- the store ---------------------------------------------------------------------------------------------
IMAGE = StoredImage("image/webp", b"file")


class BrokenBackend:
    """Fails in a way that is chosen."""

    def __init__(self, work: Callable[[str], Awaitable[bytes]]) -> None:
        self.work = work

    async def write(self, name: str, data: bytes) -> None:
        await self.work(name)

    async def read(self, name: str) -> bytes | None:
        return await self.work(name)

    async def sweep(self) -> None:
        await self.work("")

    async def close(self) -> None: ...


async def test_names_are_secret_differ_and_end_in_the_extension() -> None:
    store = ImageStore(MemoryBackend(100, 10_000, 60), 100, 60)
    names = {await store.put(IMAGE) for _ in range(100)}
    assert len(names) == 100
    assert all(is_image_name(each) and each.endswith(".webp") for each in names)
    jpeg = await store.put(StoredImage("image/jpeg", b"j"))
    assert jpeg.endswith(".jpg")
    assert await store.get(jpeg) == StoredImage("image/jpeg", b"j")


@pytest.mark.parametrize(
    "given", ["", "../etc/passwd", "a" * 32, f"{'a' * 32}.gif", "a" * 31 + "/.png"]
)
async def test_no_other_name_reaches_a_backend(given: str) -> None:
    async def fail(_: str) -> bytes:
        raise AssertionError

    assert await ImageStore(BrokenBackend(fail), 10, 60).get(given) is None


async def test_a_store_of_nothing_keeps_nothing() -> None:
    with pytest.raises(ValueError, match="no images"):
        await ImageStore(MemoryBackend(0, 100, 60), 0, 60).put(IMAGE)


async def test_a_failure_is_logged_counted_and_told_without_the_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed: list[Operation] = []
    given: list[str] = []

    async def fail(name: str) -> bytes:
        given.append(name)
        raise BackendError(f"no room for {name}")

    store = ImageStore(BrokenBackend(fail), 10, 60, failed.append)
    with pytest.raises(ImageStoreFailed, match="b64_json"):
        await store.put(IMAGE)
    with pytest.raises(ImageStoreFailed):
        await store.get(name(0))
    assert failed == ["put", "get"]
    logged = capsys.readouterr().out
    assert "no room for <name>" in logged
    assert not any(each in logged for each in given)


async def test_a_backend_that_hangs_is_given_up() -> None:
    async def hang(_: str) -> bytes:
        await asyncio.sleep(3600)
        return b""

    failed: list[Operation] = []
    store = ImageStore(BrokenBackend(hang), 10, 60, failed.append, backend_seconds=0.01)
    with anyio.fail_after(10), pytest.raises(ImageStoreFailed):
        await store.get(name(0))
    assert failed == ["get"]


async def test_expired_images_are_swept_without_being_asked_for(tmp_path: Path) -> None:
    store = ImageStore(DirectoryBackend(tmp_path, 10, 1000, 0.05), 10, 0.05)
    await store.put(IMAGE)
    assert len(files_in(tmp_path)) == 1
    store.start()
    with anyio.fail_after(10):
        while files_in(tmp_path):
            await anyio.sleep(0.01)
    await store.close()


async def test_a_sweep_that_fails_does_not_end_the_sweeping() -> None:
    calls: list[str] = []

    async def fail(name: str) -> bytes:
        calls.append(name)
        raise BackendError("no")

    store = ImageStore(BrokenBackend(fail), 10, 0.01)
    store.start()
    with anyio.fail_after(10):
        while len(calls) < 3:
            await anyio.sleep(0.01)
    await store.close()


# ---- the settings ------------------------------------------------------------------------------------------
def opened(**settings: object) -> ImageStore:
    return open_store(Settings.model_validate(settings), lambda _: None)


async def test_the_setting_names_the_backend(tmp_path: Path) -> None:
    assert isinstance(opened()._backend, MemoryBackend)
    spaced = tmp_path / "a b"
    store = opened(image_store=f"file://{spaced}")
    assert isinstance(store._backend, DirectoryBackend)
    await store.put(IMAGE)
    assert len(files_in(spaced)) == 1


def test_a_bucket_needs_no_network_to_be_named() -> None:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    assert isinstance(opened(image_store="s3://bucket/prefix/")._backend, S3Backend)


@pytest.mark.parametrize(
    "value", ["disk", "file://", "file:///", "file://host/dir", "s3://", "s3:///a", "s3://b?x=1"]
)
def test_another_store_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="image_store"):
        Settings(image_store=value)


def test_a_directory_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsFileError, match="image_store: nothing can be written to"):
        opened(image_store=f"file://{tmp_path}/file/images")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(SettingsFileError, match=r"star-server\[s3\]"):
        opened(image_store="s3://bucket")
