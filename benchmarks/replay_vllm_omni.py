"""The text-to-image requests of vLLM-Omni's benchmark: ``python -m benchmarks.replay_vllm_omni``, to a running server.

vLLM-Omni's ``benchmarks/diffusion/diffusion_benchmark_serving.py`` needs vLLM, gigabytes of it. So its requests to
``/v1/images/generations`` are replayed as its ``backends.py`` builds them: one image, ``b64_json``, a size, a seed and,
where asked for, a number of denoising steps, with its placeholder of a key. Arrivals are Poisson at ``--request-rate``,
or all at once, with at most ``--max-concurrency`` under way; the wait for a place among those is not part of a latency.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import time
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.peers.clients import percentile, prompt

HEADERS = {"authorization": "Bearer EMPTY"}


@dataclass(frozen=True)
class Answer:
    """What came of a request: its seconds, and why it failed, if it did."""

    seconds: float
    error: str = ""


def body(arguments: argparse.Namespace, number: int) -> dict[str, Any]:
    """Return the body of a request."""
    steps = arguments.num_inference_steps
    return {
        "model": arguments.model,
        "prompt": prompt(number),
        "n": 1,
        "size": f"{arguments.width}x{arguments.height}",
        "response_format": "b64_json",
        "seed": number,
        **({"num_inference_steps": steps} if steps else {}),
    }


async def replay(
    http: httpx.AsyncClient, arguments: argparse.Namespace
) -> tuple[list[Answer], float]:
    """Send all requests; return their answers, and the seconds from the first request to the last answer."""
    chance, places = random.Random(0), asyncio.Semaphore(arguments.max_concurrency)

    async def ask(number: int) -> Answer:
        async with places:
            started = time.perf_counter()
            try:
                answer = await http.post(
                    "/v1/images/generations", json=body(arguments, number), headers=HEADERS
                )
            except httpx.HTTPError as error:
                return Answer(time.perf_counter() - started, repr(error))
            wrong = "" if answer.is_success else f"HTTP {answer.status_code}: {answer.text}"
            return Answer(time.perf_counter() - started, wrong)

    started, tasks = time.perf_counter(), []
    for number in range(arguments.num_prompts):
        tasks.append(asyncio.create_task(ask(number)))
        if arguments.request_rate < math.inf:
            await asyncio.sleep(chance.expovariate(arguments.request_rate))
    return list(await asyncio.gather(*tasks)), time.perf_counter() - started


async def replay_over_http(arguments: argparse.Namespace) -> tuple[list[Answer], float]:
    """Do the same with the server at ``--base-url``."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=arguments.base_url, timeout=3600, limits=limits) as http:
        return await replay(http, arguments)


def report(answers: list[Answer], duration: float) -> dict[str, float]:
    """Return requests that succeeded and failed, their rate, and their latencies in seconds."""
    seconds = [answer.seconds for answer in answers if not answer.error]
    return {
        "completed": len(seconds),
        "failed": len(answers) - len(seconds),
        "duration": duration,
        "throughput_qps": len(seconds) / duration,
        "latency_mean": sum(seconds) / len(seconds) if seconds else math.nan,
        **{f"latency_p{p}": percentile(seconds, p) for p in (50, 95, 99)},
    }


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line, whose flags are those of vLLM-Omni's benchmark."""
    parser = argparse.ArgumentParser(description="Send the requests of vLLM-Omni's benchmark.")
    parser.add_argument("--base-url", default="http://localhost:8000")
    parser.add_argument("--model", default="star-mini")
    parser.add_argument("--num-prompts", type=int, default=20)
    parser.add_argument("--request-rate", type=float, default=math.inf, help="a second")
    parser.add_argument("--max-concurrency", type=int, default=1)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--num-inference-steps", type=int, default=0, help="0 leaves it out")
    return parser.parse_args(words)


def main() -> None:
    """Send, and print what came back."""
    answers, duration = asyncio.run(replay_over_http(parse()))
    found = report(answers, duration)
    for name, value in found.items():
        print(f"{name:16}{value:10.3f}")
    for error in sorted({answer.error for answer in answers if answer.error}):
        print(error)
    print(json.dumps({"benchmark": "replay_vllm_omni", **found}))


if __name__ == "__main__":
    main()
