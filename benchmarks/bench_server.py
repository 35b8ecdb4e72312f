"""Time the server over HTTP: ``python -m benchmarks.bench_server``.

It starts ``star-server serve`` on a free port, or measures the one at ``--url``, and asks three things of it:

- What does the server add to the engine's own time? One request at a time, against what its engine reports of the
  same request and needs to prepare it, which it does not report; and in turn with the engine alone in this process, on
  the same model and as many threads. Both ratios are of neighbours in time, since the speed of a shared machine drifts.
- How long does ``/livez`` take while images are painted?
- What do callers see under open-loop Poisson arrivals, at several shares of what the server can do?
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import re
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import httpx

from benchmarks.peers.clients import percentile
from benchmarks.server_process import serving
from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import PROMPTS, conditions, heading, open_model, paint, prepare, print_json
from star_model import Engine, StarModel

PROBE_EVERY = 0.02
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "json": "application/json"}


@contextlib.contextmanager
def server(arguments: argparse.Namespace) -> Iterator[str]:
    """The address of a server that is ready: the one that was named, or one of our own."""
    if arguments.url:
        yield arguments.url.rstrip("/")
        return
    options = {"model": arguments.model, "device": arguments.device}
    if arguments.threads:
        options["threads"] = arguments.threads
    with serving(**options) as (port, _):
        yield f"http://127.0.0.1:{port}"


def prompts() -> Iterator[str]:
    """Prompts that have not been seen: encoded texts are cached."""
    return (f"{PROMPTS[i % len(PROMPTS)]} {i}" for i in itertools.count())


# ---- What the server adds ----------------------------------------------------------------------------------
def measure_overhead(url: str, model: StarModel, repeats: int) -> dict[str, float]:
    """Medians, in milliseconds, of the engine alone and of requests, and the ratios of the two."""
    engine = Engine(model, slots=1)
    watch = Stopwatch(model.device)
    texts = prompts()
    to_own: dict[str, list[float]] = {}

    def alone() -> None:
        conditioning = model.text_encoder.encode([next(texts)])
        sequences = watch.time("prepare", lambda: prepare(engine, conditioning, [0]))
        paint(engine, sequences)
        engine.finish(sequences).cpu()

    with httpx.Client(base_url=url, timeout=600) as http:

        def served(media_type: str) -> None:
            body = {"prompt": next(texts), "seed": 0}
            http.post("/generate", json=body, headers={"accept": media_type}).raise_for_status()

        for repeat in range(repeats + 2):
            if repeat == 2:  # the first two are to warm up
                watch = Stopwatch(model.device)
                to_own.clear()
            watch.time("engine", alone)
            for name, media_type in MEDIA_TYPES.items():
                before = engine_seconds(http)
                watch.time(name, lambda media_type=media_type: served(media_type))  # type: ignore[misc]
                own = engine_seconds(http) - before + watch.seconds["prepare"][-1]
                to_own.setdefault(name, []).append(watch.seconds[name][-1] / own)
    ratios = {f"{name}_to_alone": watch.ratio(name, "engine") for name in MEDIA_TYPES}
    ratios |= {f"{name}_to_own": statistics.median(values) for name, values in to_own.items()}
    return {**watch.medians(), **ratios}


def engine_seconds(http: httpx.Client) -> float:
    """What the server's engine says that it has spent so far on texts, scales and pixels."""
    stages = "star_(text_encode|scale_step|vae_decode)_duration_seconds_sum"
    page = http.get("/metrics").raise_for_status().text
    return sum(float(line.split()[-1]) for line in page.splitlines() if re.match(stages, line))


# ---- Probes ------------------------------------------------------------------------------------------------
async def measure_probes(url: str, probes: int) -> dict[str, dict[str, float]]:
    """Milliseconds that ``/livez`` takes, idle and while one image after the other is painted."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        idle = await probe(http, probes)
        async with painting(http):
            busy = await probe(http, probes)
    return {
        name: {
            "p50": percentile(values, 50),
            "p99": percentile(values, 99),
            "max": max(values),
            "under_50_ms": sum(v < 50 for v in values) / len(values),
        }
        for name, values in {"idle": idle, "busy": busy}.items()
    }


@contextlib.asynccontextmanager
async def painting(http: httpx.AsyncClient) -> AsyncIterator[None]:
    """While it is entered, images are painted."""

    async def keep_on() -> None:
        for prompt in prompts():
            (await http.post("/generate", json={"prompt": prompt})).raise_for_status()

    task = asyncio.create_task(keep_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def probe(http: httpx.AsyncClient, probes: int) -> list[float]:
    """Milliseconds of each probe."""
    taken = []
    for _ in range(probes):
        await asyncio.sleep(PROBE_EVERY)
        started = time.perf_counter()
        (await http.get("/livez")).raise_for_status()
        taken.append(1000 * (time.perf_counter() - started))
    return taken


# ---- Open loop ---------------------------------------------------------------------------------------------
@dataclass
class Seen:
    """What callers saw, in seconds."""

    total: list[float] = field(default_factory=list)
    queue: list[float] = field(default_factory=list)
    first_preview: list[float] = field(default_factory=list)
    refused: int = 0


async def measure_arrivals(
    url: str, share: float, seconds_per_image: float, requests: int
) -> dict[str, float]:
    """Requests for one image each, at random times whose mean rate is ``share`` of one every ``seconds_per_image``.

    Every other one is a stream with two previews, which says when the first came; the rest say how long they queued.
    """
    chance = random.Random(1)
    texts, seen, tasks = prompts(), Seen(), []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        started = time.perf_counter()
        for i in range(requests):
            ask = stream_one if i % 2 else ask_one
            tasks.append(asyncio.create_task(ask(http, {"prompt": next(texts), "seed": i}, seen)))
            await asyncio.sleep(chance.expovariate(share / seconds_per_image))
        await asyncio.gather(*tasks)
        elapsed = time.perf_counter() - started
    row = {
        "share": share,
        "requests": requests,
        "refused": seen.refused,
        "images_per_s": len(seen.total) / elapsed,
    }
    for name in ("queue", "first_preview", "total"):
        values = getattr(seen, name)
        row |= {f"{name}_p{p}": percentile(values, p) if values else 0.0 for p in (50, 99)}
    return row


async def ask_one(http: httpx.AsyncClient, body: dict[str, object], seen: Seen) -> None:
    """One request for JSON."""
    started = time.perf_counter()
    answer = await http.post("/generate", json=body)
    if answer.status_code == 429:
        seen.refused += 1
        return
    answer.raise_for_status()
    seen.total.append(time.perf_counter() - started)
    seen.queue.append(float(answer.headers["x-queue-time"]))


async def stream_one(http: httpx.AsyncClient, body: dict[str, object], seen: Seen) -> None:
    """One request for a stream with two previews."""
    started = time.perf_counter()
    first_preview: float | None = None
    async with http.stream(
        "POST", "/generate", json=body | {"stream": True, "partial_images": 2}
    ) as answer:
        if answer.status_code == 429:
            seen.refused += 1
            return
        answer.raise_for_status()
        is_preview = False
        async for line in answer.aiter_lines():
            if (
                is_preview and first_preview is None
            ):  # the line of its data, megabytes long, is here
                first_preview = time.perf_counter() - started
            is_preview = line == "event: image_generation.partial_image"
    seen.total.append(time.perf_counter() - started)
    if first_preview is not None:
        seen.first_preview.append(first_preview)


# ---- Report ------------------------------------------------------------------------------------------------
def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description="Time the server over HTTP.")
    parser.add_argument("--url", help="of a server that runs; one is started if not given")
    parser.add_argument("--model", default="star-mini", help="a model's name or directory")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads of the model; 0 lets torch choose"
    )
    parser.add_argument("--repeats", type=int, default=10, help="single requests of each kind")
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--requests", type=int, default=40, help="at each rate of arrivals")
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        default=[0.5, 0.8, 1.5],
        help="rates, as shares of capacity",
    )
    arguments = parser.parse_args()
    arguments.preset = arguments.dtype = None
    model = open_model(arguments)
    with server(arguments) as url:
        overhead = measure_overhead(url, model, arguments.repeats)
        probes = asyncio.run(measure_probes(url, arguments.probes))
        arrivals = [
            asyncio.run(measure_arrivals(url, share, overhead["json"] / 1000, arguments.requests))
            for share in arguments.shares
        ]
    report(model, overhead, probes, arrivals)


def report(
    model: StarModel,
    overhead: dict[str, float],
    probes: dict[str, dict[str, float]],
    arrivals: list[dict[str, float]],
) -> None:
    """Tables for people, one line for programs."""
    print(heading(model))
    print(
        f"\none request at a time{'ms':>11}{'/ its own engine time':>25}{'/ the engine alone':>21}"
    )
    print(f"{'the engine alone':<22}{overhead['engine']:10.1f}")
    for name in MEDIA_TYPES:
        ratios = f"{overhead[f'{name}_to_own']:25.3f}{overhead[f'{name}_to_alone']:21.3f}"
        print(f"{name:<22}{overhead[name]:10.1f}{ratios}")
    print(f"\n/livez, ms{'p50':>12}{'p99':>10}{'max':>10}{'< 50 ms':>10}")
    for name, p in probes.items():
        print(
            f"{name:<10}{p['p50']:12.1f}{p['p99']:10.1f}{p['max']:10.1f}{100 * p['under_50_ms']:9.1f}%"
        )
    columns = [f"{name}_p{p}" for name in ("queue", "first_preview", "total") for p in (50, 99)]
    print(
        "\narrivals, s    images/s   refused"
        + "".join(c.replace("first_", "").rjust(13) for c in columns)
    )
    for row in arrivals:
        cells = "".join(f"{row[c]:13.2f}" for c in columns)
        print(
            f"{100 * row['share']:4.0f} % of one {row['images_per_s']:12.2f}{row['refused']:10.0f}{cells}"
        )
    print_json(
        "server",
        **conditions(model),
        cores=os.cpu_count(),
        one_at_a_time=overhead,
        livez=probes,
        arrivals=arrivals,
    )


if __name__ == "__main__":
    main()
