"""Three times as many requests as can be served, sent whether answers come or not."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.live_server import LiveServer
from tests.processes.load.metrics_page import MetricsPage, scrape
from tests.server.processes import wait_until
from tests.star_model.tiny import GOLDFISH

pytestmark = pytest.mark.anyio

SIZES = [10 if i % 5 == 4 else 1 for i in range(60)]
"""Images of each request."""
SLOTS = 2 * 4
LIMIT = 16 + SLOTS
"""Images that may be in flight: the queue and the slots of the server."""


@dataclass(frozen=True)
class Answer:
    """The outcome of one request, and when it was sent and answered in the order of all that clients did."""

    images: int
    sent: int
    received: int
    response: httpx.Response

    @property
    def ok(self) -> bool:
        return self.response.status_code == 200


async def ask(http: httpx.AsyncClient, images: int, seed: int, order: Iterator[int]) -> Answer:
    sent = next(order)
    body = {"prompt": GOLDFISH, "n": images, "seed": seed, "timeout_s": 300}
    response = await http.post("/generate", json=body)
    return Answer(images, sent, next(order), response)


async def ask_thrice_as_much(server: LiveServer, before: MetricsPage) -> list[Answer]:
    """Send a request whenever a third of the images asked for so far are done, or nothing is left to do."""
    order = itertools.count()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as http:
        tasks = []
        for seed, images in enumerate(SIZES):
            tasks.append(asyncio.create_task(ask(http, images, seed, order)))
            while True:
                page = await asyncio.to_thread(scrape, server)
                done = page.total("images_total") - before.total("images_total")
                if page.at_rest or done >= sum(SIZES[: seed + 1]) / 3:
                    break
        return await asyncio.gather(*tasks)


async def test_who_is_accepted_is_served_in_turn_and_who_is_not_is_told_when_to_come_back(
    slow_workers: LiveServer,
) -> None:
    wait_until(lambda: scrape(slow_workers).total("engine_up") == 2)
    before = scrape(slow_workers)
    answers = await ask_thrice_as_much(slow_workers, before)

    accepted, refused = [a for a in answers if a.ok], [a for a in answers if not a.ok]
    assert sum(a.images for a in accepted) >= sum(SIZES) / 4
    assert sum(a.images for a in refused) >= sum(SIZES) / 4
    assert all(len(a.response.json()["data"]) == a.images for a in accepted)
    for answer in refused:
        check_refusal(answer)
    check_turns(accepted)

    wait_until(lambda: scrape(slow_workers).at_rest)
    after = scrape(slow_workers)
    for outcome, expected in {"ok": len(accepted), "rejected": len(refused)}.items():
        counts = (
            page.total("requests_total", endpoint="/generate", outcome=outcome)
            for page in (after, before)
        )
        assert next(counts) - next(counts) == expected, outcome


def check_refusal(answer: Answer) -> None:
    """It was refused because there was no room, and told when there will be."""
    error = answer.response.json()["error"]
    assert (answer.response.status_code, error["code"]) == (429, "queue_full")
    in_flight, limit = map(int, re.findall(r"\d+", error["message"])[:2])
    assert in_flight <= limit == LIMIT < in_flight + answer.images
    assert 1 <= int(answer.response.headers["retry-after"]) <= 120


def check_turns(accepted: list[Answer]) -> None:
    """No more images were finished before an answer than its turn allows.

    At most ``LIMIT`` images are before a newcomer's first. Each further image of a request waits until one slot of
    all, its request's fair share, has come round again. Of a request that is answered in this time, all images
    count, though some were done before: hence twice as many.
    """
    for answer in accepted:
        between = sum(a.images for a in accepted if answer.sent < a.received < answer.received)
        assert between <= 2 * (LIMIT + SLOTS * answer.images)
