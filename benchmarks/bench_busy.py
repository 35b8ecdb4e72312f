"""Time an image beside busy programs: ``python -m benchmarks.bench_busy``.

OpenMP threads that spin at barriers lose most of their time when another program wants a core
(:mod:`star_model.threads`). Each wait policy gets a process of its own. They take turns generating the same image,
on the idle machine, beside one busy loop, and beside one busy loop for each core.

Policies: ``unset`` is PyTorch's default, as if this project set nothing; ``ours`` is what every process of this
project does; ``passive`` is ``OMP_WAIT_POLICY=PASSIVE``; a number is that ``GOMP_SPINCOUNT``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import (
    add_model_arguments,
    conditions,
    encode,
    heading,
    open_model,
    paint,
    prepare,
    print_json,
)
from star_model import Engine

ROOT = Path(__file__).parent.parent
UNSET, OURS, PASSIVE = "unset", "ours", "passive"
GOALS = {"busy_1": 2.5, "busy_all": 4.0, "idle": 1.05}
"""Upper limits of the ratios that :func:`ratios_of` returns."""

_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
_SETTLE_SECONDS = 0.5
_BUSY_LOOP = """
import os, sys
while os.getppid() == int(sys.argv[1]):  # ends with its parent, even if that is killed
    for _ in range(1_000_000):
        pass
"""
_CHILD = "from benchmarks.bench_busy import run_child; run_child()"

Times = dict[str, dict[int, list[float]]]
"""Milliseconds of each image, by policy and number of busy loops."""

Medians = Mapping[str, Mapping[int, float]]
"""Median milliseconds, by policy and number of busy loops."""


# ---- one process for each policy
def child_command(policy: str, flags: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Command line and complete environment of the process that waits as ``policy`` says.

    Args:
        policy: one of those in the module's docstring.
        flags: of :func:`benchmarks.workload.add_model_arguments`.

    Raises:
        ValueError: the policy is unknown.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    code = _CHILD
    if policy == UNSET:
        code = f"import torch; {code}"  # before star_model, which then sets nothing
    elif policy == PASSIVE:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    elif policy.isdecimal():
        environment["GOMP_SPINCOUNT"] = policy
    elif policy != OURS:
        raise ValueError(f"unknown policy {policy!r}: use {UNSET}, {OURS}, {PASSIVE} or a number")
    return [sys.executable, "-c", code, *flags], environment


class PolicyProcess:
    """A process that has loaded the model under one policy and generates images on request."""

    def __init__(self, policy: str, flags: Sequence[str]) -> None:
        command, environment = child_command(policy, flags)
        self.policy = policy
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.conditions: dict[str, Any] = self._answer()

    def generate(self, images: int, limit: float) -> list[float]:
        """Generate images one after the other; none but the first starts after ``limit`` seconds.

        Returns:
            Milliseconds of each.
        """
        assert self._process.stdin is not None
        print(json.dumps([images, limit]), file=self._process.stdin, flush=True)
        times: list[float] = self._answer()
        return times

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"policy {self.policy}: the process ended: {self._process.wait()}")
        return json.loads(line)


def run_child() -> None:
    """Run as the child of a :class:`PolicyProcess`: print the conditions, then a line for each line of stdin."""
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    model = open_model(parser.parse_args())
    engine = Engine(model, slots=1)

    def generate() -> None:
        sequences = prepare(engine, encode(model), [0])
        paint(engine, sequences)
        engine.finish(sequences)

    generate()  # twice, to warm up
    generate()
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    about = {"heading": heading(model), "variables": variables, **conditions(model)}
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        images, limit = json.loads(line)
        watch, deadline = Stopwatch(model.device), time.monotonic() + limit
        for i in range(images):
            if i == 0 or time.monotonic() < deadline:
                watch.time("image", generate)
        print(json.dumps([1000 * seconds for seconds in watch.seconds["image"]]), flush=True)


# ---- the load beside it
@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run ``count`` processes that loop at normal priority; they end with the context or with this process."""
    command = [sys.executable, "-S", "-c", _BUSY_LOOP, str(os.getpid())]
    with contextlib.ExitStack() as stack:
        loops = []
        for _ in range(count):
            loops.append(subprocess.Popen(command))
            stack.callback(loops[-1].wait)
            stack.callback(loops[-1].kill)
        yield loops


# ---- the measurement
def measure(
    processes: Sequence[PolicyProcess],
    loads: Sequence[int],
    *,
    rounds: int,
    images: int,
    limit: float,
) -> Times:
    """Time images under every policy beside every load, in turn.

    Args:
        processes: one for each policy.
        loads: numbers of busy loops.
        rounds: over all loads and policies, so that a drift of the machine's speed affects them alike.
        images: for each policy and load in a round.
        limit: seconds in all rounds after which a policy generates no more images beside a load.
    """
    found: Times = {p.policy: {load: [] for load in loads} for p in processes}
    for _ in range(rounds):
        for load in loads:
            with busy_loops(load):
                time.sleep(_SETTLE_SECONDS)
                for process in processes:
                    times = found[process.policy][load]
                    if (left := limit - sum(times) / 1000) > 0:
                        times += process.generate(images, left)
    return found


def ratios_of(medians: Medians, cores: int) -> dict[str, float]:
    """Ratios of medians that :data:`GOALS` limits.

    Returns:
        ``busy_1`` and ``busy_all``: ours beside one busy loop, and beside one for each core, to ours idle;
        ``idle``: ours to ``unset``, both idle. Empty or without ``idle`` where a policy was not measured.
    """
    if OURS not in medians:
        return {}
    ours = medians[OURS]
    ratios = {"busy_1": ours[1] / ours[0], "busy_all": ours[cores] / ours[0]}
    if UNSET in medians:
        ratios["idle"] = ours[0] / medians[UNSET][0]
    return ratios


def print_table(medians: Medians, found: Times) -> None:
    """Print a line for each policy: medians, their ratios to idle, and the number of images."""
    loads = list(next(iter(medians.values())))
    print("ms an image".ljust(12) + "".join(f"{f'{load} busy':>28}" for load in loads))
    for policy, by_load in medians.items():
        print(policy.ljust(12), end="")
        for load, ms in by_load.items():
            note = f"({ms / by_load[0]:.2f} x, {len(found[policy][load])} images)"
            print(f"{ms:8.0f}{note:>20}", end="")
        print()


def parse_arguments() -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(description="Time an image beside busy programs, on a CPU.")
    parser.add_argument("--model", default="star-mini", help="a model's name or directory")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    parser.add_argument(
        "--policies", nargs="+", default=[UNSET, OURS], metavar="POLICY",
        help=f"wait policies: {UNSET}, {OURS}, {PASSIVE} or a GOMP_SPINCOUNT",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="over all loads and policies")
    parser.add_argument("--images", type=int, default=3, help="of each policy and load in a round")
    parser.add_argument(
        "--limit", type=float, default=60.0, help="seconds for each policy and load, in all rounds"
    )
    return parser.parse_args()


def main() -> None:
    """Parse the command line, measure, print."""
    arguments = parse_arguments()
    # The cores of this process's affinity mask, which the busy loops inherit.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    flags = ["--model", arguments.model, "--threads", str(arguments.threads), "--device", "cpu"]
    with contextlib.ExitStack() as stack:
        processes = []
        for policy in arguments.policies:
            processes.append(PolicyProcess(policy, flags))
            stack.callback(processes[-1].close)
        found = measure(
            processes, sorted({0, 1, cores}),
            rounds=arguments.rounds, images=arguments.images, limit=arguments.limit,
        )  # fmt: skip
    medians = {
        policy: {load: statistics.median(times) for load, times in by_load.items()}
        for policy, by_load in found.items()
    }
    variables = {p.policy: p.conditions.pop("variables") for p in processes}
    shared = processes[0].conditions
    print(f"{shared.pop('heading')}, {cores} cores")
    print_table(medians, found)
    ratios = ratios_of(medians, cores)
    for name, ratio in ratios.items():
        print(f"{name.ljust(12)}{ratio:8.2f}   goal: at most {GOALS[name]:g}")
    print_json(
        "busy", **shared, cores=cores, variables=variables, milliseconds=medians, ratios=ratios,
        goals=GOALS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
