"""The tenants: what each asks for, what it may be answered, and what it was answered."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.tenants.allowed import Allowed
from benchmarks.tenants.pictures import Pictures

IMAGES, LEFT = "images", "left"
QUEUE_FULL, RATE_LIMIT, BAD_KEY = (
    "429 queue_full",
    "429 rate_limit_exceeded",
    "401 invalid_api_key",
)
PATIENCE_S = 300.0
"""A request that is not answered within this time hangs."""

_FIELDS: dict[str, dict[str, Any]] = {
    "generate": {},
    "stream": {"stream": True},
    "openai": {},
    "url": {"response_format": "url"},
}
"""Of the body, by route."""

_SEEDS = 40
"""Few, so that the same image is asked for again and again."""


@dataclass(frozen=True)
class Asked:
    """A request for images.

    Args:
        route: ``generate``, ``stream``, ``openai`` or ``url``.
        prompt: of the images.
        seeds: one for each image.
    """

    route: str
    prompt: str
    seeds: range

    @property
    def path(self) -> str:
        """Where it is sent."""
        return "/generate" if self.route in ("generate", "stream") else "/v1/images/generations"

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        body = {"prompt": self.prompt, "seed": self.seeds.start, "n": len(self.seeds)}
        return body | _FIELDS[self.route]


def draw(
    chance: random.Random, prompts: Iterable[str], routes: Iterable[str], numbers: Iterable[int]
) -> Asked:
    """Draw a request: one of the prompts, routes and numbers of images."""
    first = chance.randrange(_SEEDS)
    count = chance.choice(tuple(numbers))
    return Asked(
        chance.choice(tuple(routes)), chance.choice(tuple(prompts)), range(first, first + count)
    )


@dataclass
class Tenant:
    """A caller with a key.

    Args:
        name: of the key.
        key: that it sends.
        allowed: outcomes that its requests may have.
        pictures: where its images are checked.

    Attributes:
        outcomes: of its requests, and how many had each.
        wrong: those that were not allowed.
        images: that it has received.
        left_behind: images that it did not wait for.
        others: answered requests that asked for no images.
        painted_in_s: seconds from admission to the last image of the latest answer, as its headers say; not of streams.
        served: when each request was sent that was answered with images, and when the answer came.
        refused: the same of requests that met a limit of the key.
        answered: called with the tenant's name and the number of images of each answer.
    """

    name: str
    key: str
    allowed: Allowed
    pictures: Pictures
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    images: int = 0
    left_behind: int = 0
    others: int = 0
    painted_in_s: float = 0.0
    served: list[tuple[float, float]] = field(default_factory=list)
    refused: list[tuple[float, float]] = field(default_factory=list)
    answered: Callable[[str, int], None] = lambda _name, _images: None

    async def ask(
        self, http: httpx.AsyncClient, asked: Asked, patience: float | None = None
    ) -> str:
        """Send a request, check what comes, and return its outcome.

        Args:
            http: a client of the server.
            asked: what to ask for.
            patience: seconds after which the client leaves.
        """
        sent, answer = time.monotonic(), None
        try:
            async with asyncio.timeout(patience):
                answer = await http.post(asked.path, json=asked.body, headers=self.headers)
            outcome = _outcome(answer)
        except TimeoutError:
            outcome = LEFT
            self.left_behind += len(asked.seeds)
        except httpx.TransportError as error:
            outcome = f"{type(error).__name__} {error}".strip()
        came = time.monotonic()
        self.outcomes[outcome] += 1
        if outcome not in self.allowed.between(sent, came):
            self.wrong[outcome] += 1
        if outcome == IMAGES and answer is not None:
            self.served.append((sent, came))
            self.images += len(asked.seeds)
            times = (answer.headers.get(f"x-{part}-time", "0") for part in ("queue", "inference"))
            self.painted_in_s = sum(map(float, times))
            self.answered(self.name, len(asked.seeds))
            await self._check(http, asked, answer, self.pictures.painters.between(sent, came))
        elif outcome == RATE_LIMIT:
            self.refused.append((sent, came))
        return outcome

    @property
    def headers(self) -> dict[str, str]:
        """Headers with its key."""
        return {"authorization": f"Bearer {self.key}"}

    async def _check(
        self, http: httpx.AsyncClient, asked: Asked, answer: httpx.Response, painters: Iterable[str]
    ) -> None:
        files: dict[str, bytes] = {}
        if asked.route == "stream":
            found = _finished_stream(answer.text)
        else:
            found = answer.json()
            for image in found["data"]:
                if asked.route == "url":
                    files[image["url"]] = (await http.get(image["url"])).content
        if found["model"] not in painters:
            self.wrong[f"painted by {found['model']}, not by {' or '.join(painters)}"] += 1
        self.pictures.take_all(found, asked.prompt, asked.seeds, files)


def _finished_stream(text: str) -> dict[str, Any]:
    """Return the finished images of a stream, in the form of an answer that is no stream."""
    lines = (line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: "))
    events = [json.loads(line) for line in lines if line.startswith("{")]
    images = [event for event in events if event.get("type") == "image_generation.completed"]
    images.sort(key=lambda event: int(event["seed"]))
    return {"data": images, "model": images[0]["model"], "size": images[0]["size"]}


def _outcome(answer: httpx.Response) -> str:
    """Return what became of a request: images, or the status and code of its error, and what that lacks."""
    if answer.status_code == 200:
        streamed = "event-stream" in answer.headers["content-type"]
        return "an error in a stream" if streamed and '"error"' in answer.text else IMAGES
    try:
        code = answer.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = "and no error in the form of one"
    outcome = f"{answer.status_code} {code}"
    wait = answer.headers.get("retry-after", "")
    if answer.status_code == 429 and not (wait.isdecimal() and int(wait) >= 1):
        outcome += " without a Retry-After"
    return outcome


def misjudged(tenant: Tenant, images_per_minute: int) -> list[str]:
    """Compare a tenant's answers with its limit of images a minute; return a sentence for each kind of mistake.

    After a pause, a minute's allowance may be used at once, and it refills evenly. So in any time ``t`` no more than
    ``1 + t / 60`` of the limit is served, and nothing is refused unless a whole allowance was served in the minute
    before. The server counted a request at some time between its sending and its answer.

    Args:
        tenant: with requests for single images.
        images_per_minute: its limit.
    """
    found, served = [], tenant.served
    for i, (begin, _) in enumerate(served):
        counts = enumerate((end for _, end in served[i:]), 1)
        if any(count > images_per_minute * (1 + (end - begin) / 60) for count, end in counts):
            found.append(f"{tenant.name} was served more than {images_per_minute} images a minute")
            break
    for sent, came in tenant.refused:
        recent = sum(end >= sent - 60 and begin <= came for begin, end in served)
        if recent < images_per_minute:
            found.append(
                f"{tenant.name} was refused after {recent} images in a minute of {images_per_minute}"
            )
            break
    return found
