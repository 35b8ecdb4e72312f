"""Ten minutes in the life of a server with tenants: ``python -m benchmarks.tenants``.

It starts ``star-server serve`` with keys, a port for administrators, an image store and a batch store. In each of many
periods one tenant floods it, one always has a few images waiting, one asks now and then; then all three have a backlog,
which shows their shares; then only the batch goes on, which is under way all the time. In the middle the operator
changes keys and settings, exchanges the model and exchanges it back, and does what must have no effect.

Every request has an outcome, which must be right for its tenant at its time; every image is compared with the first one
of the same request; what the server has counted for each key must be what its clients have. The exit code is 1 if
anything is not so, or if anything grows.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tenants.allowed import Allowed
from benchmarks.tenants.batch_chain import BatchChain
from benchmarks.tenants.callers import Tenant
from benchmarks.tenants.changes import Model, Operator
from benchmarks.tenants.pictures import Pictures
from benchmarks.tenants.small_model import write_small_model
from benchmarks.tenants.stage import Stage, new_keys
from benchmarks.tenants.terms import BY_DAY, DAY, NIGHT, NIGHTLY, QUEUE_BY_DAY, SLOTS
from benchmarks.tenants.traffic import Traffic
from benchmarks.tenants.verdict import Findings
from benchmarks.workload import PROMPTS, print_json
from star_model.checkpoints.hub import resolve_model
from star_model.checkpoints.native import read_config

LEAST_PERIODS = 8
_PROMPTS = 4
_BATCH_END_S = 3600.0

Change = Callable[[], Awaitable[None]]


def schedule(round_: Sequence[Change], periods: int) -> dict[int, Change]:
    """Return the period of each change: rounds from the second period on, so that the last third has none."""
    rounds = max((2 * periods // 3 - 1) // len(round_), 1)
    return dict(enumerate([*round_] * rounds, 1))


async def run(findings: Findings, operator: Operator, minutes: float, periods: int) -> None:
    """Run all periods, and wait for the last batch."""
    stage, traffic, chain = operator.stage, findings.traffic, findings.chain
    async with stage.connected(), asyncio.TaskGroup() as group:
        await operator.learn_sizes()
        batches = group.create_task(chain.run())
        changes = schedule(operator.round, periods)
        findings.last_change = max(changes)
        started = time.monotonic()
        for number in range(periods):
            timed = _timed(findings, number, changes[number]) if number in changes else None
            swaps = changes.get(number) in (operator.first_model, operator.second_model)
            left = started + 60 * minutes * (number + 1) / periods - time.monotonic()
            server, worker = await traffic.period(max(left, 1.0), timed, measured=not swaps)
            findings.curves["server"].append(server)
            findings.curves["worker"].append(worker)
            findings.seconds.append(time.monotonic() - started)
        chain.stop()
        await asyncio.wait_for(asyncio.shield(batches), _BATCH_END_S)
        findings.page = await stage.metrics()


def _timed(findings: Findings, number: int, change: Change) -> Change:
    """Return the change, which then notes how long it took."""

    async def timed() -> None:
        began = time.monotonic()
        await change()
        what = (change.__doc__ or "").partition("\n")[0]
        findings.changes.append((number, time.monotonic() - began, what))

    return timed


def soak(given: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Start the server, run, print what was seen; return the figures, and what is wrong."""
    first, second = models(given.model, given.next, folder)
    broken = folder / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}", encoding="utf-8")
    stage = Stage(folder, new_keys(*{**DAY, **NIGHT}), new_keys("admin")["admin"])
    stage.write_keys(DAY)
    stage.write_settings(queue_capacity=QUEUE_BY_DAY)
    prompts = prompts_of(first)
    with stage.serving(first.place, slots=SLOTS, threads=given.threads):
        pictures = Pictures(first.name)
        tenants = {
            name: Tenant(name, stage.keys[name], Allowed(outcomes), pictures)
            for name, outcomes in BY_DAY.items()
        }
        painters = frozenset((first.name, second.name))
        chain = BatchChain(stage.url, stage.keys[NIGHTLY], prompts, given.lines, pictures, painters)
        findings = Findings(tenants, pictures, chain, Traffic(stage, tenants, prompts))
        operator = Operator(stage, tenants, pictures, first, second, broken)
        failed: list[str] = []
        try:
            asyncio.run(run(findings, operator, given.minutes, given.periods))
        except* Exception as group:
            failed = [f"it ended early: {error!r}" for error in leaves(group)]
            traceback.print_exception(group)
    findings.print()
    return {"model": first.name, **findings.figures()}, failed + findings.wrong(stage.log)


def leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    """Return the exceptions of a group and of the groups in it."""
    found = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def models(first: str | None, second: str | None, folder: Path) -> tuple[Model, Model]:
    """Return the model to begin with and the one that takes over; what is not given is a small one, written here."""
    if first is None:
        first = str(write_small_model(folder / "small", "small", seed=1))
        second = second or str(write_small_model(folder / "small-next", "small-next", seed=2))
    return Model.of(first), Model.of(second or first)


def prompts_of(model: Model) -> tuple[str, ...]:
    """Return a few prompts that a model can paint."""
    by_class = read_config(resolve_model(model.place)).transformer.num_classes
    return tuple(map(str, range(_PROMPTS))) if by_class else PROMPTS[:_PROMPTS]


def main() -> int:
    """Parse the command line, run, print the verdict; return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description="Soak a server with several tenants.")
    parser.add_argument("--model", help="a model's name or directory; a small one if left out")
    parser.add_argument("--next", help="one that takes over for a while; the same if left out")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--periods", type=int, default=20, help=f"at least {LEAST_PERIODS}")
    parser.add_argument("--lines", type=int, default=200, help="of each batch")
    given = parser.parse_args()
    if given.periods < LEAST_PERIODS:
        parser.error(
            f"--periods must be at least {LEAST_PERIODS}: five have changes, two are after them"
        )
    print(f"{os.cpu_count()} cores, load of the machine {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tenants-") as folder:
        figures, wrong = soak(given, Path(folder))
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    print("verdict: " + ("not as promised" if wrong else "nothing lost, shares kept, flat"))
    print_json("tenants", minutes=given.minutes, threads=given.threads, **figures, wrong=wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
