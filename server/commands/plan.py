"""``star-server plan``: the number of GPUs that a load needs, or with ``--cores`` the workers of a CPU server.

With ``--compare`` it shows the gain of batching by scale.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
    """Parse ``"2s"`` and ``"500ms"`` to seconds; return a value that is not text as it is.

    Raises:
        ValueError: the text is not a time.
    """
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+|\d*\.\d+) *(ms|s|)", value)
    if found is None:
        raise ValueError(f"must be a time such as 2s or 500ms; got {value}.")
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


class Plan(BaseModel):
    """Estimate how many GPUs, or workers on a CPU, a load needs, and the latency to expect."""

    model_config = ConfigDict(extra="forbid", validate_by_name=True, protected_namespaces=())

    model: str = Field(
        "star-512", min_length=1, description="name of a model, or the directory of one"
    )
    gpu: str = Field("h200", description="type of GPU: h200, h100 or a100")
    rps: float = Field(
        1.0, gt=0, le=1e6, allow_inf_nan=False, description="images requested per second"
    )
    p99: Annotated[float, BeforeValidator(parse_seconds)] = Field(
        2.0, gt=0, le=3600, description="target for the 99th percentile of latency: 2s, 500ms"
    )
    gpus: int = Field(0, ge=0, le=1024, description="number of GPUs; 0 finds the smallest number")
    slots: int = Field(8, ge=1, le=1024, description="images in flight on each GPU")
    efficiency: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the floor, the least time on this GPU, that is reached; benchmarks.bench_gpu measures it",
    )
    launch_us: float = Field(
        5.0,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="microseconds to launch a kernel, which bound small models; 0 if serve runs with --cuda-graphs",
    )
    price: float = Field(
        0.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="price of one GPU for an hour, in any currency; 0 leaves costs out",
    )
    max_step: float = Field(
        1.0, gt=0, le=1000, description="work of one step at most, in images, as in serve"
    )
    cores: int = Field(
        0,
        ge=0,
        le=1024,
        description="cores of a server without a GPU, to be divided among workers; needs --step-times",
    )
    step_times: list[Path] = Field(
        default_factory=list,
        description="output of benchmarks.bench_engine, used in place of computed times; with --cores one file or "
        "more, each with another number of threads",
    )
    requests: int = Field(
        10_000, ge=100, le=10_000_000, description="number of requests to simulate"
    )
    compare: bool = Field(
        False, description="compare batching strategies at 30 to 120 % of capacity instead"
    )
    cache_dir: Path | None = Field(
        None, description="directory for downloaded and converted models"
    )
    as_json: bool = Field(False, validation_alias=AliasChoices("json"), description="print JSON")

    def cli_cmd(self) -> None:
        """Simulate the load and print the result."""
        from server.commands.capacity import Demand, compare, plan
        from server.commands.info import find_config

        config, _ = find_config(self.model, self.cache_dir)
        if self.cores:
            print(self._divide_cores(config))
            return
        times, source = self._times(config)
        policy = self.policy(config)
        about: dict[str, Any] = {
            "model": config.name,
            "gpu": self.gpu,
            "step_times": source,
            "left_out": self._left_out(),
        }
        if self.compare:
            rows = compare(
                times, policy, gpus=self.gpus or 1, slots=self.slots, requests=self.requests
            )
            print(
                json.dumps({**about, "loads": rows})
                if self.as_json
                else f"{comparison_text(rows, source)}\nleft out: {about['left_out']}"
            )
            return
        about["memory_bytes"] = self._memory(config)
        about["memory_per_slot_bytes"] = config.memory_per_slot_bytes(2)
        found = {
            **about,
            **plan(Demand(self.rps, self.p99, self.gpus, self.slots, self.requests), times, policy),
        }
        found["cost_per_1000_images"] = (
            cost_per_1000_images(self.price, found) if self.price else None
        )
        print(json.dumps(found, indent=2) if self.as_json else plan_text(found))

    def _divide_cores(self, config: ModelConfig) -> str:
        """Return how to divide the cores among workers, as text or as JSON."""
        from server.commands.capacity import Demand, read_times
        from server.commands.cores import DOUBT, cores_text, divide

        if not self.step_times:
            raise UsageError(
                "--cores needs measured steps: run "
                f"`python -m benchmarks.bench_engine --model {self.model} --threads 1 > one.txt` and the same with "
                "--threads 2, then add --step-times one.txt --step-times two.txt."
            )
        demand = Demand(self.rps, self.p99, 0, self.slots, self.requests)
        steps = [read_times(path, config) for path in self.step_times]
        found = divide(demand, self.cores, steps, self.policy(config))
        if not self.as_json:
            return f"{cores_text(self.cores, demand, config.name, found)}\nleft out    {DOUBT}"
        about = {"model": config.name, "cores": self.cores, "rps": self.rps, "left_out": DOUBT}
        return json.dumps({**about, "divisions": [asdict(d) for d in found]}, indent=2)

    def policy(self, config: ModelConfig) -> Policy:
        """Return the scheduling policy of the workers."""
        shares = token_shares(config.patch_nums)
        return Policy(shares, self.slots, self.max_step)

    def _times(self, config: ModelConfig) -> tuple[StepTimes, str]:
        """Return the step times and a phrase that names their source."""
        from server.commands.capacity import CountedTimes, read_times

        if len(self.step_times) > 1:
            raise UsageError("Give one --step-times, or --cores with several.")
        if self.step_times:
            (path,) = self.step_times
            return read_times(path, config).times, f"measured, {path}"
        source = f"modelled, {self.gpu} at {100 * self.efficiency:.0f} % of its floor"
        if self.launch_us:
            source += f", {self.launch_us:g} us to launch a kernel"
        launch = self.launch_us / 1e6
        return CountedTimes(config, self._device(), self.efficiency, launch), source

    def _left_out(self) -> str:
        """Return what the numbers do not tell."""
        always = "the text encoder, uploaded images, image files, the network"
        if self.step_times:
            return f"{always}; the steps are those of the machine that measured them"
        return (
            f"{always}; the steps are arithmetic, not measured on a {self.gpu}: take them for an upper bound, and "
            "measure with benchmarks.bench_engine and --step-times before you buy"
        )

    def _memory(self, config: ModelConfig) -> int | None:
        """Return the bytes that each GPU needs; None with measured step times, whose machine is unknown."""
        from star_model.cost import peak_bytes

        if self.step_times:
            return None
        needed, there = peak_bytes(config, self.slots), self._device().memory * (1 - _RESERVED)
        if needed > there:
            raise UsageError(
                f"{self.slots} slots of {config.name} need {needed / 1e9:.0f} GB, and a {self.gpu} has "
                f"{there / 1e9:.0f} GB available; use fewer --slots."
            )
        return needed

    def _device(self) -> Device:
        from star_model.cost import DEVICES

        if self.gpu not in DEVICES:
            raise UsageError(f"Unknown GPU {self.gpu}; known are {', '.join(sorted(DEVICES))}.")
        return DEVICES[self.gpu]


def cost_per_1000_images(price: float, found: Mapping[str, Any]) -> float:
    """Return the cost of a thousand images under this load, idle time of the GPUs included.

    Args:
        price: of one GPU for an hour.
        found: result of :func:`server.commands.capacity.plan`.
    """
    an_hour = 3600 * min(found["rps"], found["capacity_rps"])
    return float(1000 * price * found["gpus"] / an_hour)


def comparison_text(rows: Sequence[Mapping[str, Any]], source: str) -> str:
    """Return the result of :func:`server.commands.capacity.compare` as a table."""
    titles = f"{'load':>6}{'rps':>9}  {'batching':22}{'images/s':>10}{'p50 s':>9}{'p99 s':>9}{'busy':>7}{'batch':>7}"
    lines = [
        f"{100 * r['load']:5.0f}%{r['rps']:9.2f}  {_NAMES[r['strategy']]:22}{r['throughput']:10.2f}"
        f"{r['p50']:9.3f}{r['p99']:9.3f}{100 * r['busy']:6.0f}%{r['batch']:7.2f}"
        for r in rows
    ]
    return "\n".join([f"step times: {source}", titles, *lines])


def plan_text(found: Mapping[str, Any]) -> str:
    """Return the result of :func:`server.commands.capacity.plan` as text."""
    memory, cost = found["memory_bytes"], found["cost_per_1000_images"]
    costs = [("cost", f"{cost:.3g} per thousand images at this load")] if cost is not None else []
    lines = [
        (
            "load",
            f"{found['rps']:g} images per second of {found['model']}, 99 % within {found['p99_wanted']:g} s",
        ),
        (
            "GPUs",
            f"{found['gpus']} x {found['gpu']}, with a capacity of {found['capacity_rps']:.1f} images per second",
        ),
        (
            "settings",
            f"--slots {found['slots']}"
            + (f"; {memory / 1e9:.1f} GB of memory per GPU" if memory else "")
            + f", {found['memory_per_slot_bytes'] / 1e6:,.0f} MB of it a slot" * bool(memory),
        ),
        (
            "busy",
            f"{100 * found['busy']:.0f} % of the time with a step under way, of "
            f"{found['mean_batch']:.1f} images on average",
        ),
        ("latency", f"50 % within {found['p50']:.3f} s, 99 % within {found['p99']:.3f} s"),
        ("alone", f"{found['one_image_alone']:.3f} s for one image on an idle GPU"),
        *costs,
        ("target", "met" if found["kept"] else "missed: more GPUs are needed"),
        ("step times", found["step_times"]),
        ("left out", found["left_out"]),
    ]
    return "\n".join(f"{label:<12}{text}" for label, text in lines)
