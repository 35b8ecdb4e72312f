"""The load: clients that come at random times, whatever the server does, and some of whom leave."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import h11

from benchmarks.peers.contenders import Running
from benchmarks.peers.exchange import post
from benchmarks.peers.painters import read_log

LEAVING = 0.1
"""Share of clients who leave."""

_TIMEOUT = 600.0
_OK, _REFUSALS = 200, (429, 503)
_PROMPTS = ("a red apple", "a fox", "a rocket", "a guitar", "a castle", "a snail", "a trophy")
_COLOURS = ("blue", "white", "orange", "pink", "green")


@dataclass
class Client:
    """One client's request, and what came of it. Times are of ``time.monotonic()``.

    Attributes:
        seed: unique in a run, so that the engine's log can be matched.
        came_at: when it was to come.
        sent_at: when its request was sent, which is later if the load generator could not keep up.
        previewed_at: when its first preview was there.
        answered_at: when its image was there.
        refused_at: when it was told to come again later.
        left_at: when it left.
        status: of the answer; 0 if the connection failed.
        event: name of the latest event of its stream.
    """

    seed: int
    came_at: float = 0.0
    sent_at: float = 0.0
    previewed_at: float | None = None
    answered_at: float | None = None
    refused_at: float | None = None
    left_at: float | None = None
    status: int = 0
    event: str = ""

    @property
    def seconds(self) -> float | None:
        """Seconds from its coming to its image."""
        return None if self.answered_at is None else self.answered_at - self.came_at


@dataclass(frozen=True)
class Arrival:
    """When a client comes, in seconds from the start, and whether it is one who leaves."""

    at: float
    leaves: bool


def arrivals(rate: float, seconds: float, seed: int, leaving: float = LEAVING) -> list[Arrival]:
    """Return Poisson arrivals, the same for each contender.

    Args:
        rate: clients per second, on average.
        seconds: that they go on coming; at least one comes.
        seed: of the random times.
        leaving: share of clients who leave.
    """
    chance = random.Random(seed)
    at = chance.expovariate(rate)
    found: list[Arrival] = []
    while at < seconds or not found:
        found.append(Arrival(at, chance.random() < leaving))
        at += chance.expovariate(rate)
    return found


class Load:
    """Requests to one contender, with seeds that it has not seen.

    Args:
        to: the contender.
        seeds: of the requests.

    Attributes:
        to: the contender.
    """

    def __init__(self, to: Running, seeds: Iterator[int] | None = None) -> None:
        self.to = to
        self._seeds = seeds or itertools.count(1)

    async def alone(self, count: int) -> float:
        """Return the median seconds of requests one after the other."""
        clients = [await self._one() for _ in range(count)]
        return percentile([seconds for c in clients if (seconds := c.seconds) is not None], 50)

    async def capacity(self, at_once: int, seconds: float) -> float:
        """Return the images per second that ``at_once`` clients get, each of whom asks again at once."""
        answered = 0
        started = time.monotonic()

        async def keep_asking() -> None:
            nonlocal answered
            while time.monotonic() < started + seconds:
                client = await self._one()  # apart, since others count meanwhile
                answered += client.answered_at is not None

        await asyncio.gather(*(keep_asking() for _ in range(at_once)))
        return answered / (time.monotonic() - started)

    async def open_loop(self, plan: Sequence[Arrival], patience: float) -> list[Client]:
        """Send each request at its time, and wait for all answers.

        Args:
            plan: when clients come.
            patience: seconds after which those leave who leave.
        """
        started, tasks = time.monotonic() + 0.1, []
        for arrival in plan:
            await asyncio.sleep(max(0.0, started + arrival.at - time.monotonic()))
            client = Client(next(self._seeds), came_at=started + arrival.at)
            work = self._ask(client, patience if arrival.leaves else None)
            tasks.append(asyncio.create_task(work))
        return await asyncio.gather(*tasks)

    async def _one(self) -> Client:
        return await self._ask(Client(next(self._seeds), came_at=time.monotonic()), _TIMEOUT)

    async def _ask(self, client: Client, patience: float | None) -> Client:
        """Ask for the client's image; a client with ``patience`` seconds closes its connection after them."""
        client.sent_at = time.monotonic()
        ask = self._stream if self.to.contender.streams else self._post
        try:
            async with asyncio.timeout(patience):
                client.status = await ask(client)
        except TimeoutError:
            client.left_at = time.monotonic()
        except (OSError, h11.RemoteProtocolError):
            client.status = 0
        if client.status in _REFUSALS:
            client.refused_at = time.monotonic()
        return client

    async def _post(self, client: Client) -> int:
        url = self.to.url + self.to.contender.path
        status = await post(url, _body(client), "image/png", lambda _: None)
        if status == _OK:
            client.answered_at = time.monotonic()
        return status

    async def _stream(self, client: Client) -> int:
        """Ask for a stream with two previews; an event's data are the line after its name."""
        rest = b""

        def receive(part: bytes) -> None:
            nonlocal rest
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                self._hear(client, line)

        body = _body(client) | {"stream": True, "partial_images": 2}
        url = self.to.url + self.to.contender.path
        return await post(url, body, "text/event-stream", receive)

    def _hear(self, client: Client, line: bytes) -> None:
        """Note the time at which the data of an event are there, which end its name's turn."""
        if line.startswith(b"event:"):
            client.event = line.decode()
        elif line.startswith(b"data:") and client.event.endswith("partial_image"):
            client.previewed_at = client.previewed_at or time.monotonic()
        elif line.startswith(b"data:") and client.event.endswith("completed"):
            client.answered_at = time.monotonic()


def prompt(seed: int) -> str:
    """Return a prompt that differs from those of the neighbouring seeds: texts are cached."""
    thing, colour = _PROMPTS[seed % len(_PROMPTS)], _COLOURS[seed // len(_PROMPTS) % len(_COLOURS)]
    return f"{thing} on a {colour} background"


def _body(client: Client) -> dict[str, object]:
    return {"prompt": prompt(client.seed), "seed": client.seed}


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that so many percent do not exceed; not a number if there are none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else float("nan")


def summary(clients: Sequence[Client], to: Running, alone: float) -> dict[str, float]:
    """Return what came of an open loop.

    Args:
        clients: of :meth:`Load.open_loop`, all of whose images have been painted or dropped.
        to: the contender.
        alone: seconds of an image alone.

    Returns:
        ``images_per_s`` that were answered; percentiles of ``total`` and ``queue``, in seconds; ``soon``, the share
        of those who stayed who were answered within twice ``alone``; ``refused``, of them too, and ``failed``;
        ``refusal_p99``; ``left``, and how many of their images were painted when they were gone, ``wasted``;
        ``preview_p50``; ``late_p99``, by which requests were sent too late: a load generator that could not keep up
        makes all else worthless.
    """
    began, painted = read_log(to.log)
    stayed = [c for c in clients if c.left_at is None]
    served = [c for c in stayed if c.answered_at is not None]
    left = [c for c in clients if c.left_at is not None]
    totals = [seconds for c in served if (seconds := c.seconds) is not None]
    queued = [began[c.seed] - c.came_at for c in served if c.seed in began]
    previews = [c.previewed_at - c.came_at for c in served if c.previewed_at is not None]
    ends = [c.answered_at for c in served if c.answered_at is not None]
    begins = min(c.came_at for c in clients)
    refusals = [c.refused_at - c.came_at for c in stayed if c.refused_at is not None]
    return {
        "images_per_s": len(served) / (max(ends) - begins) if ends else 0.0,
        "total_p50": percentile(totals, 50),
        "total_p99": percentile(totals, 99),
        "queue_p50": percentile(queued, 50),
        "queue_p99": percentile(queued, 99),
        "soon": sum(t <= 2 * alone for t in totals) / max(1, len(stayed)),
        "refused": len(refusals) / max(1, len(stayed)),
        "refusal_p99": percentile(refusals, 99),
        "failed": (len(stayed) - len(served) - len(refusals)) / max(1, len(stayed)),
        "left": len(left),
        "wasted": sum(
            painted.get(c.seed, float("-inf")) > (c.left_at or float("inf")) for c in left
        ),
        "preview_p50": percentile(previews, 50),
        "late_p99": percentile([c.sent_at - c.came_at for c in clients], 99),
    }
