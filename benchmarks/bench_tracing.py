"""The cost of traces for a request: ``python -m benchmarks.bench_tracing``.

The whole server around an engine that sleeps for a moment (:mod:`benchmarks.peers`), so that what is left is the
server's own work. Each variant is a server of its own, and all run at the same time; they take turns to answer the same
requests, one after the other, so that a machine that others use is the same to each.

``off`` has no traces. ``off too`` is another such server: what differs between these two is noise. ``unsampled`` has
traces on and records none, ``recorded`` records every request and sends its spans to a receiver in this process.
``before``, with ``--before DIRECTORY``, is another checkout, such as one from before there were traces.

Processor time is that of the server and its worker together; a request is one image of ten scales.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from benchmarks.peers.contenders import ROOT, Contender, Running, running
from benchmarks.workload import print_json

ENGINE = "sleeping:0.02"
OFF, OFF_TOO, UNSAMPLED, RECORDED, BEFORE = "off", "off too", "unsampled", "recorded", "before"
_LATENCY_MS = 1000
_WARM_UP = 20


@dataclass
class Variant:
    """A running server and its figures, one for each round.

    Attributes:
        name: in the table.
        server: its processes.
        http: a client with one connection.
        cpu_ms: processor time of a request.
        latency_ms: median time of a request, as its client sees it.
    """

    name: str
    server: Running
    http: httpx.Client
    cpu_ms: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)

    def ask(self, first_seed: int, requests: int) -> list[float]:
        """Ask for images one after the other; return the milliseconds that each took."""
        times = []
        for seed in range(first_seed, first_seed + requests):
            started = time.perf_counter()
            answer = self.http.post("/generate", json={"prompt": "a fox", "seed": seed})
            answer.raise_for_status()
            times.append(1000 * (time.perf_counter() - started))
        return times

    def measure(self, first_seed: int, requests: int) -> None:
        """Note the figures of a round."""
        before = self.server.cpu_seconds()
        times = self.ask(first_seed, requests)
        self.cpu_ms.append(1000 * (self.server.cpu_seconds() - before) / requests)
        self.latency_ms.append(statistics.median(times))


class SpanSink:
    """Takes exported spans and forgets them.

    Attributes:
        bytes: received so far.
    """

    def __init__(self) -> None:
        self.bytes = 0


@contextlib.contextmanager
def receiving() -> Iterator[tuple[SpanSink, str]]:
    """Listen for OTLP over HTTP; yields what counts it, and the address."""
    sink = SpanSink()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sink.bytes += len(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield sink, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def variables(variant: str, receiver: str, before: Path | None) -> list[str]:
    """Return the environment of a variant, beside this process's own, as ``env`` takes it."""
    on = [f"OTEL_EXPORTER_OTLP_ENDPOINT={receiver}", "OTEL_TRACES_EXPORTER=otlp"]
    if variant in (UNSAMPLED, RECORDED):
        return [*on, f"OTEL_TRACES_SAMPLER=always_{'on' if variant == RECORDED else 'off'}"]
    return [f"PYTHONPATH={before if variant == BEFORE else ROOT}", "OTEL_SDK_DISABLED=true"]


def contender(variant: str, receiver: str, before: Path | None) -> Contender:
    """Return the way to start a variant."""
    module = (sys.executable, "-m", "benchmarks.peers.star_server", "{port}", "{engine}", "{log}")
    return Contender(
        variant, ("env", *variables(variant, receiver, before), *module), "/generate", False
    )


def table(variants: Sequence[Variant]) -> str:
    """Return the medians over the rounds, and the ratios to ``off``, round by round."""
    off = variants[0]
    lines = [f"{'ms for a request':<18}{'processor':>10}{'to off':>8}{'latency':>10}{'to off':>8}"]
    for each in variants:
        cells = [
            (statistics.median(ours), statistics.median(a / b for a, b in zip(ours, its, strict=True)))
            for ours, its in ((each.cpu_ms, off.cpu_ms), (each.latency_ms, off.latency_ms))
        ]  # fmt: skip
        figures = "".join(f"{ms:>10.2f}{ratio:>8.3f}" for ms, ratio in cells)
        lines.append(f"{each.name:<18}{figures}")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="turns of each server")
    parser.add_argument("--requests", type=int, default=100, help="requests in a turn")
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    options = parser.parse_args()
    if options.rounds < 1 or options.requests < 1:
        parser.error("--rounds and --requests must be at least 1")
    names = [OFF, OFF_TOO, UNSAMPLED, RECORDED, *([BEFORE] if options.before else [])]
    with receiving() as (sink, receiver), contextlib.ExitStack() as stack:
        variants = []
        for name in names:
            server = stack.enter_context(
                running(contender(name, receiver, options.before), ENGINE, _LATENCY_MS)
            )
            http = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))
            variants.append(Variant(name, server, http))
            variants[-1].ask(1, _WARM_UP)
        for round_ in range(options.rounds):
            turns = round_ % len(variants)
            for each in (*variants[turns:], *variants[:turns]):
                each.measure(1000 * (round_ + 1), options.requests)
    print(f"{options.rounds} rounds of {options.requests} requests")
    print(table(variants))
    print(f"{sink.bytes:,} bytes of spans received")
    print_json(
        "tracing",
        rounds=options.rounds,
        requests=options.requests,
        span_bytes=sink.bytes,
        **{each.name.replace(" ", "_"): {"cpu_ms": each.cpu_ms, "latency_ms": each.latency_ms} for each in variants},
    )  # fmt: skip


if __name__ == "__main__":
    main()
