"""Five minutes of everything at once; what memory does meanwhile is printed, for ``benchmarks/LOG.md``.

``make test ARGS="-m soak -s tests/processes/load/test_soak.py"``
"""

from __future__ import annotations

import asyncio
import faulthandler
import random
import time
from collections import Counter

import httpx
import pytest

from tests.live_server import LiveServer
from tests.processes.load.metrics_page import scrape
from tests.server.processes import needs_proc, resident_bytes, wait_until, workers_of

pytestmark = [pytest.mark.anyio, pytest.mark.soak, needs_proc]

SECONDS = 300.0
CLIENTS = 24


async def behave(
    http: httpx.AsyncClient, chance: random.Random, until: float, outcomes: Counter[str]
) -> None:
    """One client after another: each asks for something, and some leave before they have it."""
    while time.monotonic() < until:
        body = {
            "prompt": f"a red apple {chance.randrange(2000)}",
            "n": chance.choice((1, 1, 1, 2, 10)),
            "guidance_scale": chance.choice((0.0, 4.0)),
            "format": chance.choice(("png", "webp", "jpeg")),
        }
        if chance.random() < 0.5:
            body |= {"stream": True, "partial_images": chance.randrange(4)}
        patience = chance.uniform(0, 0.3) if chance.random() < 0.2 else None
        try:
            async with asyncio.timeout(patience):
                answer = await http.post("/generate", json=body)
                outcomes[str(answer.status_code)] += 1
        except TimeoutError:
            outcomes["left"] += 1


async def test_memory_stays_where_it_is(two_workers: LiveServer) -> None:
    faulthandler.cancel_dump_traceback_later()  # the stacks of a test that hangs; this one is meant to be long
    processes = {"server": two_workers.process.pid}
    for index, pid in enumerate(workers_of(two_workers.process.pid)):
        processes[f"worker {index}"] = pid
    start = time.monotonic()
    outcomes = Counter[str]()
    http = httpx.AsyncClient(base_url=two_workers.url, timeout=120)
    clients = [
        asyncio.create_task(behave(http, random.Random(number), start + SECONDS, outcomes))
        for number in range(CLIENTS)
    ]
    curve: list[tuple[float, ...]] = []
    print("\nseconds  requests  " + "  ".join(f"{name} MB" for name in processes))
    for sample in range(1, 11):
        await asyncio.sleep(start + sample * SECONDS / 10 - time.monotonic())
        curve.append(tuple(resident_bytes(pid) / 1e6 for pid in processes.values()))
        memory = "  ".join(
            f"{mb:>{len(name) + 3}.1f}" for name, mb in zip(processes, curve[-1], strict=True)
        )
        print(f"{time.monotonic() - start:7.0f}  {outcomes.total():8}  {memory}")
    await asyncio.gather(*clients)
    await http.aclose()
    print(dict(outcomes))
    assert outcomes.keys() <= {"200", "left"}
    assert outcomes["200"] > 100
    for settled, end in zip(curve[2], curve[-1], strict=True):
        assert end - settled < 20
    wait_until(lambda: scrape(two_workers).at_rest)
    assert "Traceback" not in two_workers.written
