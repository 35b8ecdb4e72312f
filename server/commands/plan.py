"""``star-server plan``: how many GPUs a load needs; or, with ``--compare``, what batching by scale is worth."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from server.commands.simulation import StepTimes, Strategy
from server.errors import UsageError
from server.worker.scheduler import Policy, token_shares

if TYPE_CHECKING:
    from star_model.config import ModelConfig
    from star_model.cost import Device

_RESERVED = 0.1  # share of a GPU's memory left to the driver, the libraries and fragmentation
_NAMES: dict[Strategy, str] = {
    "one": "one at a time",
    "whole": "whole generations",
    "continuous": "continuous, by scale",
    "packed": "packed, mixed scales",
}


def parse_seconds(value: object) -> object:
    """``"2s"`` and ``"500ms"`` as seconds; what is no text as it is.

    Raises:
        ValueError: a text is no time.
    """
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+|\d*\.\d+) *(ms|s|)", value)
    if found is None:
        raise ValueError(f"must be a time such as 2s or 500ms; got {value}.")
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


class Plan(BaseModel):
    """Say how many GPUs a load needs, with what settings, and what latency to expect."""

    model_config = ConfigDict(extra="forbid", validate_by_name=True, protected_namespaces=())

    model: str = Field(
        "star-512", min_length=1, description="name of a model, or the directory of one"
    )
    gpu: str = Field("h200", description="which GPU: h200, h100 or a100")
    rps: float = Field(
        1.0, gt=0, le=1e6, allow_inf_nan=False, description="images a second that are asked for"
    )
    p99: Annotated[float, BeforeValidator(parse_seconds)] = Field(
        2.0, gt=0, le=3600, description="time within which 99 of 100 are to be answered: 2s, 500ms"
    )
    gpus: int = Field(0, ge=0, le=1024, description="how many there are; 0 looks for the fewest")
    slots: int = Field(8, ge=1, le=1024, description="images painted at a time by each GPU")
    efficiency: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the floor that the engine reaches; benchmarks.bench_gpu measures it",
    )
    price: float = Field(
        0.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="of one GPU for an hour, in any currency; 0 leaves costs out",
    )
    max_step: float = Field(1.0, gt=0, le=1000, description="as of serve")
    step_times: Path | None = Field(
        None, description="output of benchmarks.bench_engine, in place of counted times"
    )
    requests: int = Field(10_000, ge=100, le=10_000_000, description="requests to simulate")
    compare: bool = Field(
        False, description="compare ways of batching at 30 to 120 % of capacity instead"
    )
    cache_dir: Path | None = Field(None, description="where fetched and converted models are kept")
    as_json: bool = Field(False, validation_alias=AliasChoices("json"), description="print JSON")

    def cli_cmd(self) -> None:
        """Simulate, and print."""
        from server.commands.capacity import Demand, compare, plan
        from server.commands.info import find_config

        config, _ = find_config(self.model, self.cache_dir)
        times, source = self._times(config)
        policy = self.policy(config)
        about: dict[str, Any] = {"model": config.name, "gpu": self.gpu, "step_times": source}
        if self.compare:
            rows = compare(
                times, policy, gpus=self.gpus or 1, slots=self.slots, requests=self.requests
            )
            print(
                json.dumps({**about, "loads": rows})
                if self.as_json
                else comparison_text(rows, source)
            )
            return
        about["memory_bytes"] = self._memory(config)
        found = {
            **about,
            **plan(Demand(self.rps, self.p99, self.gpus, self.slots, self.requests), times, policy),
        }
        found["cost_per_1000_images"] = (
            cost_per_1000_images(self.price, found) if self.price else None
        )
        print(json.dumps(found, indent=2) if self.as_json else plan_text(found))

    def policy(self, config: ModelConfig) -> Policy:
        """What every worker's scheduler decides by."""
        shares = token_shares(config.patch_nums)
        return Policy(shares, self.slots, self.max_step)

    def _times(self, config: ModelConfig) -> tuple[StepTimes, str]:
        """Step times, and a phrase that says where they are from."""
        from server.commands.capacity import CountedTimes, read_times

        if self.step_times is not None:
            return read_times(self.step_times, config), f"measured, {self.step_times}"
        source = f"a model: {self.gpu} at {100 * self.efficiency:.0f} % of its floor"
        return CountedTimes(config, self._device(), self.efficiency), source

    def _memory(self, config: ModelConfig) -> int | None:
        """Bytes that each GPU needs; None where the machine is not one of the known GPUs."""
        from star_model.cost import peak_bytes

        if self.step_times is not None:
            return None
        needed, there = peak_bytes(config, self.slots), self._device().memory * (1 - _RESERVED)
        if needed > there:
            raise UsageError(
                f"{self.slots} slots of {config.name} need {needed / 1e9:.0f} GB, and a {self.gpu} has "
                f"{there / 1e9:.0f} GB to give; ask for fewer --slots."
            )
        return needed

    def _device(self) -> Device:
        from star_model.cost import DEVICES

        if self.gpu not in DEVICES:
            raise UsageError(f"Unknown GPU {self.gpu}; known are {', '.join(sorted(DEVICES))}.")
        return DEVICES[self.gpu]


def cost_per_1000_images(price: float, found: Mapping[str, Any]) -> float:
    """What a thousand images cost while this load lasts: GPUs that wait for work are paid for too.

    Args:
        price: of one GPU for an hour.
        found: what :func:`server.commands.capacity.plan` did.
    """
    an_hour = 3600 * min(found["rps"], found["capacity_rps"])
    return float(1000 * price * found["gpus"] / an_hour)


def comparison_text(rows: Sequence[Mapping[str, Any]], source: str) -> str:
    """What :func:`server.commands.capacity.compare` found, for people."""
    titles = f"{'load':>6}{'rps':>9}  {'batching':22}{'images/s':>10}{'p50 s':>9}{'p99 s':>9}{'busy':>7}{'batch':>7}"
    lines = [
        f"{100 * r['load']:5.0f}%{r['rps']:9.2f}  {_NAMES[r['strategy']]:22}{r['throughput']:10.2f}"
        f"{r['p50']:9.3f}{r['p99']:9.3f}{100 * r['busy']:6.0f}%{r['batch']:7.2f}"
        for r in rows
    ]
    return "\n".join([f"step times: {source}", titles, *lines])


def plan_text(found: Mapping[str, Any]) -> str:
    """What :func:`server.commands.capacity.plan` found, for people."""
    memory, cost = found["memory_bytes"], found["cost_per_1000_images"]
    costs = (
        [("cost", f"{cost:.3g} a thousand images, while the load is this")]
        if cost is not None
        else []
    )
    lines = [
        (
            "load",
            f"{found['rps']:g} images a second of {found['model']}, 99 of 100 within {found['p99_wanted']:g} s",
        ),
        (
            "GPUs",
            f"{found['gpus']} x {found['gpu']}, which can do {found['capacity_rps']:.1f} a second",
        ),
        (
            "settings",
            f"--slots {found['slots']}"
            + (f"; {memory / 1e9:.1f} GB of memory each" if memory else ""),
        ),
        (
            "busy",
            f"{100 * found['busy']:.0f} % of the time, {found['mean_batch']:.1f} images in a step on average",
        ),
        ("latency", f"half within {found['p50']:.3f} s, 99 of 100 within {found['p99']:.3f} s"),
        ("alone", f"{found['one_image_alone']:.3f} s"),
        *costs,
        ("promise", "kept" if found["kept"] else "broken: more GPUs are needed"),
        ("step times", found["step_times"]),
    ]
    return "\n".join(f"{label:<12}{text}" for label, text in lines)
