"""Batches, one after the other, so that one is always under way; with OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
from openai import AsyncOpenAI
from openai.types import Batch

from benchmarks.tenants.callers import draw
from benchmarks.tenants.pictures import Pictures

_URL: Final = "/v1/images/generations"
_LOOK_S = 0.5
_ENDED = ("completed", "failed", "expired", "cancelled")


@dataclass
class BatchChain:
    """Hands in a batch, checks its results, hands in the next.

    Args:
        url: of the server.
        key: of the batches' owner.
        prompts: of their requests.
        lines: of each batch.
        pictures: where its images are checked.
        painters: names of the models that may paint.

    Attributes:
        batches: that have completed.
        answered: lines of theirs.
        images: of these lines.
        requests: answered requests over HTTP.
        under_way_s: seconds in which there was one.
        wrong: what is not as it should be, and how often.
    """

    url: str
    key: str
    prompts: Sequence[str]
    lines: int
    pictures: Pictures
    painters: frozenset[str]
    batches: int = 0
    answered: int = 0
    images: int = 0
    requests: int = 0
    under_way_s: float = 0.0
    wrong: Counter[str] = field(default_factory=Counter)
    _stop: bool = False

    def stop(self) -> None:
        """Begin no other batch."""
        self._stop = True

    async def run(self) -> None:
        """Work until told to stop, and the last batch has ended."""
        chance = random.Random(2)
        http = httpx2.AsyncClient(event_hooks={"response": [self._count]}, timeout=300)
        client = AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, http_client=http
        )
        async with client:
            while not self._stop:
                began = time.monotonic()
                await self._one(client, self._draw(chance))
                self.under_way_s += time.monotonic() - began

    async def _count(self, _: httpx2.Response) -> None:
        self.requests += 1

    def _draw(self, chance: random.Random) -> dict[str, dict[str, Any]]:
        """Return the body of each line, by its id."""
        asked = (draw(chance, self.prompts, ["openai"], [1, 1, 2]) for _ in range(self.lines))
        return {f"line-{number}": each.body for number, each in enumerate(asked)}

    async def _one(self, client: AsyncOpenAI, bodies: dict[str, dict[str, Any]]) -> None:
        lines = [
            {"custom_id": name, "method": "POST", "url": _URL, "body": body}
            for name, body in bodies.items()
        ]
        data = "\n".join(map(json.dumps, lines)).encode()
        file = await client.files.create(file=("requests.jsonl", data), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint=_URL, completion_window="24h"
        )
        while batch.status not in _ENDED:
            await asyncio.sleep(_LOOK_S)
            batch = await client.batches.retrieve(batch.id)
        await self._check(client, batch, bodies)
        for file_id in (batch.input_file_id, batch.output_file_id, batch.error_file_id):
            if file_id:
                await client.files.delete(file_id)

    async def _check(
        self, client: AsyncOpenAI, batch: Batch, bodies: dict[str, dict[str, Any]]
    ) -> None:
        """Each line is answered once, with its images."""
        counts = batch.request_counts
        if batch.status != "completed" or counts is None or counts.completed != len(bodies):
            self.wrong[f"a batch of {len(bodies)} lines ended as {batch.status}, {counts}"] += 1
        if batch.output_file_id is None:
            return
        text = (await client.files.content(batch.output_file_id)).text
        results = [json.loads(line) for line in text.splitlines()]
        if sorted(result["custom_id"] for result in results) != sorted(bodies):
            self.wrong["a batch whose lines are not answered once each"] += 1
        for result in results:
            await asyncio.sleep(0)  # others are served meanwhile
            self._check_line(result, bodies[result["custom_id"]])
        self.batches += 1
        self.answered += len(results)

    def _check_line(self, result: dict[str, Any], asked: dict[str, Any]) -> None:
        if result["response"] is None or result["response"]["status_code"] != 200:
            self.wrong[f"a line was answered {json.dumps(result)[:200]}"] += 1
            return
        answer = result["response"]["body"]
        if answer["model"] not in self.painters:
            self.wrong[f"a line was painted by {answer['model']}"] += 1
        self.images += len(answer["data"])
        seeds = range(asked["seed"], asked["seed"] + asked["n"])
        self.pictures.take_all(answer, asked["prompt"], seeds, {})
