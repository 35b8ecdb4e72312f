"""The traffic of all tenants: a crowd, then all with a backlog, then a pause in which the batch goes on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from benchmarks.growth import Sample, children_of, least, sample
from benchmarks.metrics_page import MetricsPage
from benchmarks.tenants.callers import IMAGES, LEFT, PATIENCE_S, Tenant, draw
from benchmarks.tenants.stage import NotAsPromised, Stage
from benchmarks.tenants.terms import FLOOD, FORMER, LATE, NIGHTLY, OCCASIONAL, STEADY, TENANTS

FLOODERS, BACKLOG = 24, 6
"""Clients of the flood, and of each other tenant that keeps a backlog; one request each at a time."""

LEAST_IMAGES = 24
"""In which shares are measured; a slow model takes longer for them than its part of the period."""

CROWD, ALBUM, PAUSE = 0.4, 0.25, 0.35
"""Parts of a period."""

_LEAVE = 0.1
_LOOKS, _LOOK_S = 10, 0.05
_CONNECTIONS_AT_REST = 3
"""Of this program: what reads the metrics, and the batches' client."""


@dataclass(frozen=True)
class Window:
    """A time in which all three tenants had work waiting.

    Args:
        images: that each of them got.
        batch: images that batches got.
    """

    images: Mapping[str, int]
    batch: int

    @property
    def difference(self) -> int:
        """Images that the one with the most got more than the one with the fewest."""
        return max(self.images.values()) - min(self.images.values())


@dataclass
class Traffic:
    """Asks for images, period by period.

    Args:
        stage: the server.
        tenants: by name.
        prompts: to ask for.

    Attributes:
        windows: in which shares were measured.
        waits: images of others that were finished while an occasional one waited, for each.
        batch_lines: lines of batches that were done in crowds, and in pauses.
    """

    stage: Stage
    tenants: Mapping[str, Tenant]
    prompts: Sequence[str]
    windows: list[Window] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)
    batch_lines: Counter[str] = field(default_factory=Counter)
    _chance: random.Random = field(default_factory=lambda: random.Random(1))
    _finished: Counter[str] = field(default_factory=Counter)
    _answers: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=1000))

    def __post_init__(self) -> None:
        for tenant in self.tenants.values():
            tenant.answered = self._count

    def _count(self, name: str, images: int) -> None:
        self._finished[name] += images
        self._answers.append((time.monotonic(), images))

    async def period(
        self, seconds: float, change: Callable[[], Awaitable[None]] | None, *, measured: bool
    ) -> tuple[Sample, Sample]:
        """Run the traffic of a period, all of it answered; return samples of the server and its worker at rest.

        Args:
            seconds: that it takes at least.
            change: what the operator does in the crowd.
            measured: whether shares and waits count: not while two models paint at once.
        """
        done = await self._batch_lines_done()
        over, crowd_over = asyncio.Event(), asyncio.Event()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with (
            httpx.AsyncClient(base_url=self.stage.url, timeout=PATIENCE_S, limits=limits) as http,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(FLOODERS):
                group.create_task(self._flood(http, over))
            for _ in range(BACKLOG):
                group.create_task(
                    self._keep_asking(http, STEADY, ("openai", "openai", "url"), over)
                )
            for name in (FORMER, LATE):
                group.create_task(self._now_and_then(http, name, over))
            occasional = group.create_task(self._occasional(http, crowd_over, measured=measured))
            await asyncio.gather(
                asyncio.sleep(CROWD * seconds), *([change()] if change is not None else [])
            )
            crowd_over.set()
            await occasional
            await self._album(http, group, ALBUM * seconds, over, measured=measured)
            over.set()
        at_pause = await self._batch_lines_done()
        await asyncio.sleep(PAUSE * seconds)
        samples = await self._at_rest()
        self.batch_lines["crowd"] += at_pause - done
        self.batch_lines["pause"] += await self._batch_lines_done() - at_pause
        return samples

    # ---- the tenants
    async def _flood(self, http: httpx.AsyncClient, over: asyncio.Event) -> None:
        """Ask for one or two images at a time, at once again; leave some before they come."""
        chance = random.Random(self._chance.random())
        while not over.is_set():
            patience = chance.uniform(0, 1) if chance.random() < _LEAVE else None
            asked = draw(chance, self.prompts, ("generate", "generate", "stream"), (1, 1, 2))
            if await self.tenants[FLOOD].ask(http, asked, patience) not in (IMAGES, LEFT):
                await _pause(chance.uniform(1, 2), over)

    async def _keep_asking(
        self, http: httpx.AsyncClient, name: str, routes: Sequence[str], over: asyncio.Event
    ) -> None:
        chance = random.Random(self._chance.random())
        while not over.is_set():
            outcome = await self.tenants[name].ask(http, draw(chance, self.prompts, routes, (1,)))
            if outcome != IMAGES:  # which is wrong, and has been noted
                await _pause(0.5, over)

    async def _now_and_then(self, http: httpx.AsyncClient, name: str, over: asyncio.Event) -> None:
        chance = random.Random(self._chance.random())
        while not over.is_set():
            await self.tenants[name].ask(http, draw(chance, self.prompts, ("generate",), (1,)))
            await _pause(chance.uniform(0.5, 1), over)

    async def _occasional(
        self, http: httpx.AsyncClient, over: asyncio.Event, *, measured: bool
    ) -> None:
        """Ask for one image now and then; count what others got meanwhile."""
        chance = random.Random(self._chance.random())
        while not over.is_set():
            asked = draw(chance, self.prompts, ("generate", "openai"), (1,))
            if await self.tenants[OCCASIONAL].ask(http, asked) == IMAGES and measured:
                *others, (came, _) = self._answers
                admitted = came - self.tenants[OCCASIONAL].painted_in_s
                self.waits.append(sum(images for at, images in others if at >= admitted))
            await _pause(chance.uniform(0.1, 0.5), over)

    # ---- shares
    async def _album(
        self,
        http: httpx.AsyncClient,
        group: asyncio.TaskGroup,
        seconds: float,
        over: asyncio.Event,
        *,
        measured: bool,
    ) -> None:
        """The occasional tenant has as much to do as the others, for so long."""
        for _ in range(BACKLOG):
            group.create_task(self._keep_asking(http, OCCASIONAL, ("generate", "openai"), over))
        # By then their images take turns; whose turn it is when the window begins is left to chance.
        begun = self._finished.total() + 3 * BACKLOG + self._chance.randrange(len(TENANTS))
        first = _images_by_key(
            await self.stage.until("a backlog", lambda _: self._finished.total() >= begun)
        )
        await asyncio.sleep(seconds)

        def enough(page: MetricsPage) -> bool:
            got = _images_by_key(page)
            return sum(got[name] - first[name] for name in TENANTS) >= LEAST_IMAGES

        got = _images_by_key(await self.stage.until("images for all", enough))
        got.subtract(first)
        if measured:
            self.windows.append(Window({name: got[name] for name in TENANTS}, got[NIGHTLY]))

    # ---- rest
    async def _at_rest(self) -> tuple[Sample, Sample]:
        """Wait until only the batch is under way, in one worker; sample the processes.

        Raises:
            NotAsPromised: it does not come to that.
        """

        def rests(page: MetricsPage) -> bool:
            requests = [page.total(f"requests_{state}") for state in ("running", "waiting")]
            few = page.total("connections") <= _CONNECTIONS_AT_REST
            return not any(requests) and few and len(children_of(self.stage.pid)) == 1

        await self.stage.until("rest: no request, and one process beside the server", rests)
        if len(workers := children_of(self.stage.pid)) != 1:
            raise NotAsPromised(f"the server has {len(workers)} processes at rest")
        # The batch goes on, and opens files for a moment.
        server, worker = [], []
        for _ in range(_LOOKS):
            server.append(sample(self.stage.pid))
            worker.append(sample(workers[0]))
            await asyncio.sleep(_LOOK_S)
        return least(server), least(worker)

    async def _batch_lines_done(self) -> int:
        return int((await self.stage.metrics()).total("batch_requests_total"))


async def _pause(seconds: float, over: asyncio.Event) -> None:
    """Wait so long, or until all is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await over.wait()


def _images_by_key(page: MetricsPage) -> Counter[str]:
    return Counter(
        {
            each.labels["key"]: int(each.value)
            for each in page.samples
            if each.name == "star_key_images_total"
        }
    )
