"""Three times as many requests as can be served, whether answers come or not."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from bisect import bisect_right
from dataclasses import dataclass

import httpx
import pytest

from tests.live_server import LiveServer
from tests.processes.load.metrics_page import scrape
from tests.server.processes import wait_until

pytestmark = pytest.mark.anyio

REQUESTS = 60
SLOTS = 2 * 4
LIMIT = 16 + SLOTS
"""Images that may be under way: the queue and the slots of the server."""


@dataclass(frozen=True)
class Answer:
    """What became of one request; times are seconds on the client's clock."""

    images: int
    sent: float
    received: float
    response: httpx.Response

    @property
    def ok(self) -> bool:
        return self.response.status_code == 200

    @property
    def seconds(self) -> float:
        return self.received - self.sent


async def ask(http: httpx.AsyncClient, images: int, seed: int) -> Answer:
    sent = time.monotonic()
    body = {"prompt": "a red apple", "n": images, "seed": seed, "timeout_s": 300}
    response = await http.post("/generate", json=body)
    return Answer(images, sent, time.monotonic(), response)


async def test_who_is_accepted_is_served_soon_and_who_is_not_is_told_when_to_come_back(
    slow_workers: LiveServer,
) -> None:
    wait_until(lambda: scrape(slow_workers).total("engine_up") == 2)
    before = scrape(slow_workers)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=slow_workers.url, timeout=300, limits=limits) as http:
        start = time.monotonic()
        warm = await asyncio.gather(*(ask(http, 4, seed) for seed in range(4)))
        seconds_per_image = (time.monotonic() - start) / 16
        assert all(answer.ok for answer in warm)

        sizes = [10 if i % 5 == 4 else 1 for i in range(REQUESTS)]
        tasks = []
        for seed, images in enumerate(sizes):
            tasks.append(asyncio.create_task(ask(http, images, seed)))
            await asyncio.sleep(
                images * seconds_per_image / 3
            )  # an open loop: nobody waits for answers
        answers = await asyncio.gather(*tasks)

    accepted, refused = [a for a in answers if a.ok], [a for a in answers if not a.ok]
    assert {a.response.status_code for a in refused} == {429}
    assert {a.response.json()["error"]["code"] for a in refused} == {"queue_full"}
    assert all(len(a.response.json()["data"]) == a.images for a in accepted)

    # At most LIMIT images are before a newcomer's first. Each further image of a request has to wait until one
    # slot of all, its request's fair share, has come round again.
    throughput = sum(a.images for a in accepted) / (
        max(a.received for a in accepted) - answers[0].sent
    )
    bounds = [(LIMIT + SLOTS * a.images) / throughput for a in accepted]
    late = [a.seconds / bound for a, bound in zip(accepted, bounds, strict=True)]
    assert statistics.quantiles(late, n=100)[-1] <= 2

    check_honesty(accepted, refused)

    wait_until(lambda: scrape(slow_workers).at_rest)
    after = scrape(slow_workers)
    for outcome, expected in {"ok": len(accepted) + len(warm), "rejected": len(refused)}.items():
        counts = (
            page.total("requests_total", endpoint="/generate", outcome=outcome)
            for page in (after, before)
        )
        assert next(counts) - next(counts) == expected, outcome


def check_honesty(accepted: list[Answer], refused: list[Answer]) -> None:
    """Compare what the refused were told with when as many images as they lacked room for were finished."""
    finished = sorted(a.received for a in accepted for _ in range(a.images))
    ratios = []
    for answer in refused:
        told = int(answer.response.headers["retry-after"])
        assert 1 <= told <= 120
        under_way, limit = map(
            int, re.findall(r"\d+", answer.response.json()["error"]["message"])[:2]
        )
        assert limit == LIMIT
        excess = under_way + answer.images - limit
        place = bisect_right(finished, answer.received) + excess - 1
        if place < len(finished):
            true = finished[place] - answer.received
            ratios.append(
                told / max(true, 1.0)
            )  # seconds are whole: 1 is the least that can be said
    assert len(ratios) > len(refused) / 2
    assert 0.5 <= statistics.median(ratios) <= 2
    honest = sum(0.5 <= ratio <= 2 for ratio in ratios)
    assert honest >= 0.8 * len(ratios), sorted(ratios)
