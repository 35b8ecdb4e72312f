"""Images that are sent to do harm: refused by inspection, or decoded in a process that can be spared."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from PIL import Image

from server.errors import RateLimitExceeded
from server.images.decode_pool import DecodePool
from tests.app.test_bad_input import check
from tests.server.hostile_images import endless_scans
from tests.server.pictures import file_of, photo
from tests.server.service import Service, post_generate, serve_fake, short_of_threads, until

pytestmark = pytest.mark.anyio

IMAGE = file_of(photo(64))
TEXT = base64.b64encode(IMAGE).decode()


def pool_of(service: Service) -> DecodePool:
    pool = service.app.state.context.decoder
    assert isinstance(pool, DecodePool)
    return pool


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@asynccontextmanager
async def stopped_decoder(**settings: Any) -> AsyncIterator[tuple[Service, int]]:
    """A service whose only decoding process hangs, and the id of that process."""
    async with serve_fake(**{"decode_processes": 1, "decode_timeout_s": 60, **settings}) as service:
        assert (await service.generate(image=TEXT)).status_code == 200
        (pid,) = pool_of(service).pids
        os.kill(pid, signal.SIGSTOP)
        yield service, pid


async def metric(service: Service, line: str) -> bool:
    return line in (await service.http.get("/metrics")).text


async def edit(service: Service, file: bytes) -> httpx.Response:
    files = {"image": file}
    return await service.http.post("/v1/images/edits", files=files, data={"prompt": "a"})


async def test_a_server_that_edits_nothing_starts_no_process() -> None:
    async with serve_fake() as service:
        assert (await service.generate()).status_code == 200
        assert pool_of(service).pids == []


async def test_a_jpeg_of_endless_scans_is_refused_and_not_decoded() -> None:
    async with serve_fake(images_per_minute=1) as service:
        answer = await edit(service, endless_scans(4096, 3000))
        check(answer, 400, "image", "has more than 100 scans")
        assert await metric(service, 'star_uploads_refused_total{reason="structure"} 1.0')
        assert (await edit(service, IMAGE)).status_code == 200, (
            "it was not decoded, and costs nothing"
        )


async def test_what_takes_too_long_is_killed_and_costs_its_caller() -> None:
    async with stopped_decoder(decode_timeout_s=0.5, images_per_minute=2) as (service, pid):
        check(await service.generate(image=TEXT), 400, "image", "takes more than 0.5 s to decode")
        assert not alive(pid)
        assert await metric(service, 'star_uploads_refused_total{reason="time"} 1.0')
        check(await service.generate(image=TEXT), 429, None, "images per minute")


async def test_a_crash_is_one_requests_error() -> None:
    async with stopped_decoder() as (service, pid):
        answer = asyncio.create_task(service.generate(image=TEXT))
        await until(lambda: bool(pool_of(service)._busy))
        os.kill(pid, signal.SIGSEGV)
        os.kill(pid, signal.SIGCONT)
        check(await answer, 400, "image", "makes the decoder crash")
        assert (await service.generate(image=TEXT)).status_code == 200


async def test_a_process_that_died_while_idle_is_replaced() -> None:
    async with stopped_decoder() as (service, pid):
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not pool_of(service)._idle[0].usable)
        assert (await service.generate(image=TEXT)).status_code == 200
        assert pool_of(service).pids != [pid]


async def test_without_a_thread_for_it_an_edit_is_refused_and_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serve_fake(decode_processes=1) as service:
        short_of_threads(monkeypatch, "image-decoder")
        answer = await service.generate(image=TEXT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
        assert int(answer.headers["retry-after"]) > 0
        assert pool_of(service).pids == []
        monkeypatch.undo()
        assert (await service.generate(image=TEXT)).status_code == 200


async def test_memory_is_limited() -> None:
    flat = file_of(Image.new("RGB", (6000, 6000)))
    async with serve_fake(max_image_pixels=1 << 27, decode_memory_bytes=400 << 20) as service:
        check(await edit(service, flat), 400, "image", "takes more than 400 MiB of memory")
        assert (await edit(service, IMAGE)).status_code == 200


async def test_the_deadline_ends_decoding() -> None:
    async with stopped_decoder() as (service, pid):
        answer = await service.generate(image=TEXT, timeout_s=0.3)
        check(answer, 504, None, "deadline passed while its image was decoded")
        assert not alive(pid)
        assert (await service.generate(image=TEXT)).status_code == 200


async def test_a_client_that_leaves_ends_decoding() -> None:
    async with stopped_decoder() as (service, pid):
        body = json.dumps({"prompt": "a", "image": TEXT}).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await until(lambda: bool(pool_of(service)._busy))
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            pass

        scope = post_generate() | {"app": service.app, "state": {}}
        await asyncio.wait_for(service.app(scope, receive, send), 20)
        assert not alive(pid)
        assert (await service.generate(image=TEXT)).status_code == 200


async def test_waiting_for_a_decoder_ends_with_the_deadline_too() -> None:
    async with stopped_decoder() as (service, _):
        first = asyncio.create_task(service.generate(image=TEXT, timeout_s=3))
        await until(lambda: bool(pool_of(service)._busy))
        check(await service.generate(image=TEXT, timeout_s=0.2), 504, None, "deadline")
        assert (await service.generate()).status_code == 200, "other requests are served meanwhile"
        assert (await first).status_code == 504


async def test_who_is_over_the_limit_does_not_wait_for_a_decoder() -> None:
    async with stopped_decoder(images_per_minute=10) as (service, pid):
        first = asyncio.create_task(service.generate(image=TEXT))
        await until(lambda: bool(pool_of(service)._busy))
        check(await service.generate(image=TEXT, n=10), 429, None, "images per minute")
        assert not first.done()
        os.kill(pid, signal.SIGCONT)
        assert (await first).status_code == 200


async def test_who_has_spent_the_limit_while_waiting_for_a_decoder_does_not_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spent: list[int] = []

    def limited(caller: object, images: int) -> None:
        if spent:
            raise RateLimitExceeded("spent", retry_after=60)

    async with stopped_decoder() as (service, pid):
        limits = service.app.state.context.limits
        monkeypatch.setattr(limits, "check", limited)
        monkeypatch.setattr(limits, "spend", lambda caller, images: spent.append(images))
        edits = [asyncio.create_task(service.generate(image=TEXT)) for _ in range(10)]
        await until(lambda: len(pool_of(service)._free._waiters or ()) == 9)
        os.kill(pid, signal.SIGCONT)
        codes = sorted([(await answer).status_code for answer in edits])
        assert codes == [200] + [429] * 9
        name = "star_image_decode_duration_seconds_count"
        decoded = service.models.metrics.registry.get_sample_value(name)
        assert decoded is not None
        assert decoded < 1 + len(edits), (
            "those that began before the first was painted, and not all"
        )


async def test_a_stopping_server_kills_its_decoders() -> None:
    async with stopped_decoder() as (_, pid):
        pass
    assert not alive(pid)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_deadline_ends_encoding_too(stream: bool) -> None:
    async with serve_fake(encode_threads=1) as service:
        done = threading.Event()
        service.app.state.context.encoder._pool.submit(done.wait)
        try:
            answer = await service.generate(timeout_s=0.5, stream=stream)
        finally:
            done.set()
        assert "deadline passed while its image was encoded" in answer.text
        assert answer.status_code == (200 if stream else 504)
        assert service.client.idle
