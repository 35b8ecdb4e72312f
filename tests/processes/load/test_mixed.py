"""Two hundred requests of all kinds at once, over two workers: each gets exactly its own images."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer
from tests.processes.load.metrics_page import scrape
from tests.server.processes import wait_until

pytestmark = pytest.mark.anyio

PROMPTS = ("a red apple", "a blue cat on green", "cat", "a red background, a cat", "apple " * 30)


@dataclass(frozen=True)
class Request:
    """A body, and when its client leaves, if it does: after so many seconds, or when it has the first event."""

    body: dict[str, Any]
    leaves_after: float | None
    leaves_at_first_event: bool

    @property
    def stays(self) -> bool:
        return self.leaves_after is None and not self.leaves_at_first_event

    def alone(self) -> list[dict[str, Any]]:
        """The same images, one a request."""
        shared = {
            k: v for k, v in self.body.items() if k not in ("n", "seed", "stream", "partial_images")
        }
        return [shared | {"seed": self.body["seed"] + i} for i in range(self.body["n"])]


def draw_request(chance: random.Random) -> Request:
    body: dict[str, Any] = {
        "prompt": chance.choice(PROMPTS),
        "seed": chance.randrange(2**31),
        "n": chance.choice((1, 1, 1, 1, 1, 2, 3, 10)),
        "guidance_scale": chance.choice((0.0, 1.5, 4.0)),
        "top_k": chance.choice((0, 5, 60)),
        "top_p": chance.choice((0.8, 1.0)),
        "format": chance.choice(("png", "png", "webp")),
    }
    if body["guidance_scale"] and chance.random() < 0.3:
        body["negative_prompt"] = chance.choice(PROMPTS)
    if chance.random() < 0.4:
        body |= {"stream": True, "partial_images": chance.randrange(4)}
    leaves_after = chance.uniform(0, 0.5) if chance.random() < 0.2 else None
    return Request(
        body, leaves_after, leaves_at_first_event=bool(body.get("stream")) and body["n"] >= 3
    )


async def images_of(http: httpx.AsyncClient, body: dict[str, Any]) -> dict[int, str]:
    """The image files of a request by seed, in base64."""
    answer = (await http.post("/generate", json=body)).raise_for_status()
    if not body.get("stream"):
        return {image["seed"]: image["b64_json"] for image in answer.json()["data"]}
    lines = answer.text.splitlines()
    events = [
        json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")
    ]
    return {e["seed"]: e["b64_json"] for e in events if e["type"] == "image_generation.completed"}


async def leave_at_first_event(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    async with http.stream("POST", "/generate", json=body) as answer:
        async for line in answer.raise_for_status().aiter_lines():
            if line.startswith("data: "):
                break


async def test_each_gets_its_own_images_byte_for_byte(two_workers: LiveServer) -> None:
    chance = random.Random(4)
    requests = [draw_request(chance) for _ in range(200)]
    before = scrape(two_workers)
    async with httpx.AsyncClient(
        base_url=two_workers.url, timeout=300, limits=httpx.Limits(max_connections=250)
    ) as http:

        async def send(request: Request) -> dict[int, str] | None:
            try:
                async with asyncio.timeout(request.leaves_after):
                    if request.leaves_at_first_event:
                        await leave_at_first_event(http, request.body)
                        return None
                    return await images_of(http, request.body)
            except TimeoutError:
                return None

        mixed = await asyncio.gather(*(send(request) for request in requests))
        wait_until(lambda: scrape(two_workers).at_rest)
        after = scrape(two_workers)
        answered = {
            outcome: after.total("requests_total", endpoint="/generate", outcome=outcome)
            - before.total("requests_total", endpoint="/generate", outcome=outcome)
            for outcome in ("ok", "cancelled", "invalid", "rejected", "deadline", "oom", "error")
        }
        received = sum(images is not None for images in mixed)
        assert received <= answered.pop("ok") <= 200
        # Some left before the server knew of them, or with the last image on its way; not all of those with an event.
        assert 0 < answered.pop("cancelled") <= 200 - received
        assert not any(answered.values()), answered

        seen = set[str]()
        for request, images in zip(requests, mixed, strict=True):
            if images is None:
                assert not request.stays
                continue
            for body in request.alone():
                expected = await images_of(http, body)
                assert images.pop(body["seed"]) == expected[body["seed"]], request
                seen |= set(expected.values())
            assert not images
        assert len(seen) > 200, "were they all the same, the comparison would mean nothing"
    shares = [
        scrape(two_workers).total("images_total", worker=w) - before.total("images_total", worker=w)
        for w in "01"
    ]
    assert min(shares) > 50, shares
    wait_until(lambda: scrape(two_workers).at_rest)
