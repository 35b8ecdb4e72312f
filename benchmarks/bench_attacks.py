"""Time honest requests beside attacks: ``python -m benchmarks.bench_attacks``.

It starts ``star-server serve`` on a free port, and asks it for one image after the other: alone, and beside each attack
of :mod:`benchmarks.attacks`, in turn. The speed of a shared machine drifts, so each attack is compared with what stands
beside it in time: the requests alone just before and just after it. Attackers run in a process of their own at the
lowest priority, as if on another machine; what they still take from the server counts against it. How much the server
has seen of each attack is read from its metrics: one that does not reach it would prove nothing.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import re
import statistics
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from benchmarks.attacks import ATTACKS, attacked
from benchmarks.bench_server import server
from benchmarks.peers.clients import percentile
from benchmarks.workload import print_json

GOAL = 3.0
"""Honest requests may take so many times as long beside an attack as alone, in the median."""

_SETTLE_S = 3.0
_SEEN = re.compile(
    r'^star_(?:requests_total\{endpoint="(?!/metrics).*|connections_refused_total.*|connections) (\S+)$',
    re.MULTILINE,
)


@dataclass
class Times:
    """Seconds of honest requests alone and beside an attack.

    Attributes:
        failures: what honest requests got instead of an image beside the attack, in words.
        seen: requests and connections of the attackers.
    """

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seen: int = 0

    @property
    def ratio(self) -> float:
        """Of the medians; infinite if no image came beside the attack."""
        if not self.beside:
            return math.inf
        return statistics.median(self.beside) / statistics.median(self.alone)


class Honest:
    """A client that asks for one image after the other, each with a new prompt and over a new connection.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = itertools.count()

    def ask(self, times: list[float], failures: list[str], count: int) -> None:
        """Ask so often; keep the seconds of images, and what else came."""
        for _ in range(count):
            body = {"prompt": f"a red apple, number {next(self._numbers)}", "seed": 1}
            started = time.perf_counter()
            try:
                answer = httpx.post(f"{self._url}/generate", json=body, timeout=600)
                if answer.status_code == 200:
                    times.append(time.perf_counter() - started)
                else:
                    failures.append(answer.json()["error"]["code"])
            except httpx.TransportError as error:
                failures.append(type(error).__name__)


def seen_by(text: str) -> int:
    """Requests that a server has answered, connections that it has refused, and those open now.

    Args:
        text: its ``/metrics``, which itself is not counted.
    """
    return round(sum(float(value) for value in _SEEN.findall(text)))


def _seen_by(url: str) -> int:
    return seen_by(httpx.get(f"{url}/metrics", timeout=600).raise_for_status().text)


def measure(url: str, names: list[str], rounds: int, requests: int) -> dict[str, Times]:
    """Time honest requests alone, beside an attack, alone, and so on.

    Args:
        url: of a server on this machine.
        names: of the attacks.
        rounds: over all attacks.
        requests: in a row.

    Raises:
        RuntimeError: an attack did not reach the server, or honest requests failed that nothing disturbed.
    """
    port = urlsplit(url).port or 80
    found = {name: Times() for name in names}
    honest, nobody = Honest(url), list[str]()
    honest.ask([], nobody, requests)  # to warm up
    for _ in range(rounds):
        before: list[float] = []
        honest.ask(before, nobody, requests)
        for name, times in found.items():
            seen = _seen_by(url) + requests
            with attacked([name], port):
                time.sleep(_SETTLE_S)
                honest.ask(times.beside, times.failures, requests)
                times.seen += _seen_by(url) - seen
            time.sleep(_SETTLE_S)
            after: list[float] = []
            honest.ask(after, nobody, requests)
            times.alone += before + after
            before = after
    if nobody:
        raise RuntimeError(f"requests failed that nothing disturbed: {nobody}")
    if missed := [name for name, times in found.items() if times.seen <= 0]:
        raise RuntimeError(f"these attacks did not reach the server: {', '.join(missed)}")
    return found


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description="Time honest requests beside attacks.")
    parser.add_argument("--url", help="of a server on this machine; one is started if not given")
    parser.add_argument("--model", default="star-mini", help="a model's name or directory")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model")
    parser.add_argument("--rounds", type=int, default=3, help="over all attacks")
    parser.add_argument("--requests", type=int, default=10, help="in a row")
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=ATTACKS)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with server(arguments) as url:
        found = measure(url, arguments.attacks, arguments.rounds, arguments.requests)
    print(
        f"{os.cpu_count()} cores, load of the machine {load:.1f} before, {os.getloadavg()[0]:.1f} after"
    )
    print(
        f"{'ms':<14}{'alone p50':>10}{'p95':>8}{'beside p50':>12}{'p95':>8}{'ratio':>8}{'seen':>8}  failed"
    )
    rows = {}
    for name, times in found.items():
        p = [
            1000 * percentile(s, q)
            for s in (times.alone, times.beside or [math.inf])
            for q in (50, 95)
        ]
        failed = ", ".join(sorted(set(times.failures))) or "none"
        print(
            f"{name:<14}{p[0]:10.0f}{p[1]:8.0f}{p[2]:12.0f}{p[3]:8.0f}{times.ratio:8.2f}"
            f"{times.seen:8}  {failed}"
        )
        rows[name] = {
            "ms": p,
            "ratio": times.ratio,
            "seen": times.seen,
            "failures": times.failures,
        }
    print(f"goal: a ratio of at most {GOAL:g}, and no failure")
    print_json("attacks", model=arguments.model, threads=arguments.threads, attacks=rows, goal=GOAL)


if __name__ == "__main__":
    main()
