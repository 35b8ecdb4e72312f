"""This server beside what a team would write instead of using it: ``python -m benchmarks.bench_peers``.

The same engine behind a thread pool of FastAPI, LitServe, BentoML and Ray Serve, each batched as its documentation
advises, and behind this server, in one run on one machine. All are started, then loaded in turn: first one request at
a time, then as many as they can take, then by Poisson arrivals at shares of what the best of them could take. A
tenth of the clients leave before their image is there.

Two engines: ``--engine star-mini`` is the real model on this machine, and ``--engine sleeping`` sleeps as long as
``star-512`` would take on an H200 by the cost model; ``sleeping:4`` sleeps four times as long. A sleeping engine needs
no processor, so ``--at-once`` may load all at the same time: what else the machine does then meets them alike.
``--output FILE`` keeps each row as soon as it is measured; a run that finds rows there does not measure them again.
``make peers`` installs the others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.peers.clients import Arrival, Load, arrivals, summary
from benchmarks.peers.contenders import CONTENDERS, PEERS, Running, running
from benchmarks.peers.painters import MOST_TOGETHER, SLEEPING, sleeping_model

LOADS = (0.3, 0.6, 0.9, 1.2)
PATIENCE = 0.5
"""Times alone after which those leave who leave."""

_PACKAGES = ("litserve", "bentoml", "ray", "fastapi", "torch")

Row = dict[str, Any]


@dataclass(frozen=True)
class Length:
    """How much is measured.

    Args:
        seconds: that clients come, at each load.
        full: seconds of asking as fast as a contender answers.
        alone: requests one after the other.
        loads: shares of the capacity of the best.
        at_once: all contenders at the same time, rather than in turn.
    """

    seconds: float
    full: float
    alone: int
    loads: tuple[float, ...]
    at_once: bool = False


@dataclass
class Results:
    """Rows that have been measured, kept in a file as they come.

    Args:
        path: of the file; None keeps them nowhere.
        engine: other engines' rows in the file are left alone.

    Raises:
        ValueError: the file holds something else.
    """

    path: Path | None
    engine: str
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        for number, line in enumerate(self.path.read_text("utf-8").splitlines(), start=1):
            try:
                row = json.loads(line)
                if row["engine"] == self.engine:
                    self.rows.append(row)
            except (ValueError, LookupError, TypeError) as error:
                raise ValueError(
                    f"line {number} of {self.path} is no row of this benchmark: delete it, or name "
                    "another --output"
                ) from error

    def find(self, kind: str, name: str, load: float | None = None) -> Row | None:
        """Return a row of an earlier run."""
        wanted = (kind, name, load)
        return next((r for r in self.rows if (r["kind"], r["name"], r.get("load")) == wanted), None)

    def add(self, kind: str, name: str, **values: Any) -> None:
        """Keep a row."""
        row = {
            "engine": self.engine,
            "kind": kind,
            "name": name,
            "busy": os.getloadavg()[0],
        } | values
        # JSON has no number for what nobody saw, such as the time to a refusal.
        row = {k: None if v != v else v for k, v in row.items()}
        self.rows.append(row)
        print(f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def of(self, kind: str) -> list[Row]:
        """Return the rows of a kind."""
        return [row for row in self.rows if row["kind"] == kind]


@contextlib.contextmanager
def contenders(names: Sequence[str], engine: str, latency_ms: int) -> Iterator[dict[str, Running]]:
    """Start the contenders of these names, one after the other."""
    with contextlib.ExitStack() as stack:
        started = {}
        for name in names:
            print(f"starting {CONTENDERS[name].title}", flush=True)
            started[name] = stack.enter_context(running(CONTENDERS[name], engine, latency_ms))
        yield started


def measure(runs: Mapping[str, Running], results: Results, length: Length) -> None:
    """Measure what ``results`` lack, the contenders in turn or at once at each load."""
    seeds = count(1)
    for name, one in runs.items():
        if results.find("capacity", name) is None:
            load = Load(one, seeds)
            alone = asyncio.run(load.alone(length.alone))
            most = asyncio.run(load.capacity(2 * MOST_TOGETHER, length.full))
            results.add("capacity", name, alone=alone, images_per_s=most)
    best = max(row["images_per_s"] for row in results.of("capacity"))
    alone = min(row["alone"] for row in results.of("capacity"))
    for share in length.loads:
        missing = [name for name in runs if results.find("load", name, share) is None]
        plan = arrivals(share * best, length.seconds, seed=round(100 * share))
        for group in [missing] if length.at_once else [[name] for name in missing]:
            loads = {name: Load(runs[name], seeds) for name in group}
            for name, row in asyncio.run(under_load(loads, plan, alone)).items():
                results.add("load", name, load=share, **row)


async def under_load(
    loads: Mapping[str, Load], plan: Sequence[Arrival], alone: float
) -> dict[str, dict[str, float]]:
    """Return what came of the same arrivals at all of these contenders at once.

    Args:
        loads: by the contenders' names.
        plan: when clients come.
        alone: seconds of an image alone.
    """

    async def one(load: Load) -> dict[str, float]:
        before = load.to.cpu_seconds()
        clients = await load.open_loop(plan, PATIENCE * alone)
        await asyncio.sleep(1 + 2 * MOST_TOGETHER * alone)  # what is begun for nobody ends too
        used = (load.to.cpu_seconds() - before) / len(clients)
        return {**summary(clients, load.to, alone), "cpu": used, "memory": load.to.memory()}

    rows = await asyncio.gather(*(one(load) for load in loads.values()))
    return dict(zip(loads, rows, strict=True))


def versions() -> dict[str, str]:
    """Return the versions of what is compared, of the environments that they run in."""
    found = {"python": platform.python_version()}
    sites = [str(site) for site in PEERS.parent.glob("lib/python*/site-packages")]
    for each in metadata.distributions(path=sites):
        if each.name in _PACKAGES:
            found[each.name] = each.version
    return found


Cell = Callable[[Row], str]
COLUMNS: dict[str, Cell] = {
    "images/s": lambda row: f"{row['images_per_s']:.2f}",
    "p50 s": lambda row: _seconds(row["total_p50"]),
    "p99 s": lambda row: _seconds(row["total_p99"]),
    "queue p50": lambda row: _seconds(row["queue_p50"]),
    "queue p99": lambda row: _seconds(row["queue_p99"]),
    "soon": lambda row: _share(row["soon"]),
    "refused": lambda row: _share(row["refused"]),
    "within s": lambda row: _seconds(row["refusal_p99"]),
    "failed": lambda row: _share(row["failed"]),
    "wasted": lambda row: f"{row['wasted']:.0f} of {row['left']:.0f}",
    "preview s": lambda row: _seconds(row["preview_p50"]),
    "late s": lambda row: _seconds(row["late_p99"]),
    "CPU ms": lambda row: f"{1000 * row['cpu']:.0f}",
    "MiB": lambda row: f"{row['memory'] / 2**20:.0f}",
}
"""Columns of the table, and how a row fills them."""


def table(results: Results) -> str:
    """Return the results as two tables in Markdown."""
    capacities = [
        [CONTENDERS[row["name"]].title, f"{row['alone']:.3f}", f"{row['images_per_s']:.2f}"]
        for row in results.of("capacity")
    ]
    loads = [
        [f"{100 * row['load']:.0f} %", CONTENDERS[row["name"]].title]
        + [cell(row) for cell in COLUMNS.values()]
        for row in sorted(results.of("load"), key=lambda row: float(row["load"]))
    ]
    first = _markdown(["server", "alone, s", "at most, images/s"], capacities)
    return f"{first}\n\n{_markdown(['load', 'server', *COLUMNS], loads)}"


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if value else ""


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def arguments_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Compare servers around the same engine.")
    parser.add_argument("--engine", default=SLEEPING, help="sleeping, sleeping:FACTOR, or a model")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=[*CONTENDERS])
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS, help="shares of capacity")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="that clients come, at each load"
    )
    parser.add_argument("--output", type=Path, help="keeps rows, and those there are not repeated")
    parser.add_argument(
        "--at-once", action="store_true", help="load all at the same time; needs a sleeping engine"
    )
    parser.add_argument("--short", action="store_true", help="one load, and few requests")
    found = parser.parse_args(words)
    if found.at_once and not found.engine.startswith(SLEEPING):
        parser.error("--at-once needs an engine that sleeps: a real one would share the processor")
    missing = [name for name in found.only if not CONTENDERS[name].installed]
    if missing:
        parser.error(
            f"not installed: {', '.join(missing)}; `make peers` installs them, or use --only"
        )
    try:
        found.model = sleeping_model(found.engine)
        found.results = Results(found.output, found.engine)
    except ValueError as error:
        parser.error(str(error))
    return found


def main() -> None:
    """Measure and print."""
    arguments = arguments_of()
    results: Results = arguments.results
    full = min(10.0, arguments.seconds)
    length = Length(arguments.seconds, full, 10, tuple(arguments.loads), arguments.at_once)
    if arguments.short:
        length = Length(10.0, 2.0, 3, (0.9,), at_once=arguments.model is not None)
    # BentoML refuses what it expects to take longer. Its documentation's example allows a second, 20 sleeping images.
    latency = 20 * (arguments.model.seconds(1) if arguments.model else 1.0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends what has been started
    with contenders(arguments.only, arguments.engine, round(1000 * latency)) as runs:
        measure(runs, results, length)
    busy = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\n{arguments.engine}, {os.cpu_count()} cores, {versions()}, load average {busy}")
    print(table(results))
    about = {
        "engine": arguments.engine,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": versions(),
    }
    print(json.dumps({"benchmark": "peers", **about, "rows": results.rows}))


if __name__ == "__main__":
    main()
