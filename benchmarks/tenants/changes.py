"""What an operator does to the server in the middle of the traffic, and that it does what it should."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.tenants.callers import Tenant
from benchmarks.tenants.pictures import Pictures
from benchmarks.tenants.stage import NotAsPromised, Stage
from benchmarks.tenants.terms import (
    BY_DAY,
    BY_NIGHT,
    DAY,
    NIGHT,
    QUEUE_BY_DAY,
    QUEUE_BY_NIGHT,
    STEADY,
)
from star_model.checkpoints.hub import resolve_model
from star_model.checkpoints.native import read_config


@dataclass(frozen=True)
class Model:
    """A model to serve.

    Args:
        name: in requests.
        place: its name or directory for the server.
    """

    name: str
    place: str

    @classmethod
    def of(cls, place: str) -> Model:
        """Read the name from the model's configuration.

        Raises:
            CheckpointError: there is no such model.
        """
        return cls(read_config(resolve_model(place)).name, place)


@dataclass
class Operator:
    """Changes keys, settings and model of a running server.

    Args:
        stage: the server.
        tenants: by name; what they may be answered changes with the keys.
        pictures: the models that may paint them change with the model.
        first, second: the model at the start, and one that takes over for a while.
        broken: a directory that cannot be loaded.
    """

    stage: Stage
    tenants: Mapping[str, Tenant]
    pictures: Pictures
    first: Model
    second: Model
    broken: Path

    @property
    def round(self) -> list[Callable[[], Awaitable[None]]]:
        """All changes, in their order; after the last, everything is as it was."""
        return [
            self.night_falls,
            self.second_model,
            self.nothing_that_is_wrong,
            self.first_model,
            self.day_breaks,
        ]

    async def night_falls(self) -> None:
        """One key is added, one is limited, one expires; POST /admin/reload."""
        with self._changing(BY_NIGHT):
            self.stage.write_keys(NIGHT)
            await self._post("/admin/reload", 200)

    async def day_breaks(self) -> None:
        """The keys as before, and another setting; SIGHUP."""
        room = (await self.stage.metrics()).total("queue_capacity")
        other = QUEUE_BY_NIGHT if room == QUEUE_BY_DAY else QUEUE_BY_DAY
        with self._changing(BY_DAY):
            self.stage.write_keys(DAY)
            self.stage.write_settings(queue_capacity=other)
            await self._hang_up("done")
        if (room := (await self.stage.metrics()).total("queue_capacity")) != other:
            raise NotAsPromised(f"queue_capacity is {room:g} after SIGHUP, not {other}")

    async def second_model(self) -> None:
        """The second model takes over; POST /admin/model."""
        await self._swap(self.second)

    async def first_model(self) -> None:
        """The first model takes over again; POST /admin/model."""
        await self._swap(self.first)

    async def nothing_that_is_wrong(self) -> None:
        """A model that cannot be loaded, settings and keys with mistakes: none of them changes anything."""
        refused = await self._post("/admin/model", 422, model=str(self.broken))
        if (code := refused.json()["error"]["code"]) != "model_not_loaded":
            raise NotAsPromised(f"a model that cannot be loaded: {code}")
        room = (await self.stage.metrics()).total("queue_capacity")
        self.stage.write_settings(queue_capacity=-1)
        await self._hang_up("refused")
        self.stage.write_settings(queue_capacity=int(room))
        await self._hang_up("done")
        reads = "key_file_reads_total"
        await self._counted(reads, {"result": "failed"}, self.stage.spoil_keys)
        await self._counted(reads, {"result": "ok"}, lambda: self.stage.write_keys(NIGHT))

    @contextlib.contextmanager
    def _changing(self, outcomes: Mapping[str, set[str]]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name, tenant in self.tenants.items():
                stack.enter_context(tenant.allowed.changing(outcomes[name]))
            yield

    async def _swap(self, model: Model) -> None:
        """Exchange the model; requests that are sent afterwards are painted by the new one."""
        with self.pictures.painters.changing([model.name]):
            place = (await self._post("/admin/model", 200, model=model.place)).json()
        if (place["swap"]["phase"], place["name"]) != ("done", model.name):
            raise NotAsPromised(f"a swap to {model.name} was answered {place}")
        self.pictures.epoch += 1
        await self.learn_sizes()

    async def learn_sizes(self) -> None:
        """Ask for the sizes of the model that is served now."""
        asker = self.tenants[STEADY]
        answer = await self.stage.http.get("/v1/models", headers=asker.headers)
        asker.others += 1
        for card in answer.raise_for_status().json()["data"]:
            self.pictures.sizes[card["id"]] = card["sizes"]

    async def _post(self, path: str, status: int, **body: str) -> httpx.Response:
        answer = await self.stage.admin.post(path, json=body or None)
        if answer.status_code != status:
            raise NotAsPromised(f"{path} {body}: {answer.status_code} {answer.text}")
        return answer

    async def _hang_up(self, outcome: str) -> None:
        """Send SIGHUP, and wait until it has had this outcome."""
        await self._counted("reloads_total", {"outcome": outcome}, self.stage.hang_up)

    async def _counted(self, name: str, labels: Mapping[str, str], act: Callable[[], None]) -> None:
        """Do something, and wait until the server has counted it."""
        before = (await self.stage.metrics()).total(name, **labels)
        act()
        await self.stage.until(
            f"{name} {dict(labels)}", lambda page: page.total(name, **labels) > before
        )
