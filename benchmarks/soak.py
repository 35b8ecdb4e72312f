"""Ten minutes of honest and hostile traffic at once: ``python -m benchmarks.soak``.

It starts ``star-server serve``. In each of many periods honest clients ask for images and edits, some stream and some
leave, beside two of the attacks of :mod:`benchmarks.attacks`. After each, when all is quiet, it samples memory, file
descriptors and threads of every process. At the end it judges by the slopes after the first third, and by what honest
clients got; the exit code is 1 if anything grows, or if a request had another outcome than it should.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
from PIL import Image

from benchmarks.attacks import ATTACKS, attacked
from benchmarks.growth import Sample, children_of, judge, print_table, sample
from benchmarks.metrics_page import MetricsPage
from benchmarks.server_process import serving

CLIENTS = 6
ATTACKS_AT_ONCE = 2
ACCEPTABLE = {"200", "left", "429 queue_full", "429 too_many_uploads", "503 overloaded"}
"""What honest clients may get beside attackers with the same address: the last three say that there is no room."""

_QUIET_S = 120.0


# ---- honest traffic ----------------------------------------------------------------------------------------
def _picture() -> str:
    file = io.BytesIO()
    Image.effect_noise((512, 512), 64).convert("RGB").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def draw_request(chance: random.Random, number: int, picture: str) -> dict[str, Any]:
    """The body of a request, of any kind."""
    body: dict[str, Any] = {
        "prompt": f"a red apple {number}",
        "n": chance.choice((1, 1, 1, 2)),
        "guidance_scale": chance.choice((0.0, 4.0)),
        "format": chance.choice(("png", "webp", "jpeg")),
    }
    if chance.random() < 0.4:
        body |= {"stream": True, "partial_images": chance.randrange(4)}
    if chance.random() < 0.2:
        body |= {"image": picture, "keep_scales": 2}
    return body


async def behave(
    url: str, chance: random.Random, numbers: Iterator[int], picture: str, outcomes: Counter[str]
) -> None:
    """Ask for one thing after the other, until cancelled; leave some of it before it comes."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        while True:
            body = draw_request(chance, next(numbers), picture)
            patience = chance.uniform(0, 1) if chance.random() < 0.2 else None
            try:
                async with asyncio.timeout(patience):
                    answer = await http.post("/generate", json=body)
                outcomes[_outcome(answer)] += 1
            except TimeoutError:
                outcomes["left"] += 1
            except httpx.TransportError as error:
                outcomes[type(error).__name__] += 1
            await asyncio.sleep(0.02)


def _outcome(answer: httpx.Response) -> str:
    if answer.status_code == 200:
        failed = (
            'data: {"error"' in answer.text
            if "event-stream" in answer.headers["content-type"]
            else False
        )
        return "an error in a stream" if failed else "200"
    return f"{answer.status_code} {answer.json()['error']['code']}"


async def period(port: int, seconds: float, chance: random.Random, outcomes: Counter[str]) -> None:
    """Honest traffic and two attacks for a while; then wait until nothing is left of either."""
    url, picture = f"http://127.0.0.1:{port}", _picture()
    numbers = itertools.count(chance.randrange(1_000_000))
    names = chance.sample(sorted(ATTACKS), ATTACKS_AT_ONCE)
    with attacked(names, port):
        clients = [
            asyncio.create_task(
                behave(url, random.Random(chance.random()), numbers, picture, outcomes)
            )
            for _ in range(CLIENTS)
        ]
        await asyncio.sleep(seconds)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    deadline = time.monotonic() + _QUIET_S
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        while not _at_rest((await http.get("/metrics")).text):
            if time.monotonic() > deadline:
                outcomes["the server did not come to rest"] += 1
                return
            await asyncio.sleep(0.2)


def _at_rest(text: str) -> bool:
    """Whether a page of metrics shows no request, and no connection but the one that asks for it."""
    page = MetricsPage(text)
    requests = [page.total(f"requests_{state}") for state in ("running", "waiting")]
    return not any(requests) and page.total("connections") <= 1


# ---- the verdict -------------------------------------------------------------------------------------------
def run(port: int, pid: int, minutes: float, periods: int) -> list[str]:
    """Run all periods, print the table, and return what is wrong, a sentence each."""
    chance, outcomes = random.Random(1), Counter[str]()
    curves: dict[str, list[Sample]] = {"server": [], "worker": []}
    seconds, started, worker = [], time.monotonic(), children_of(pid)[0]
    for number in range(1, periods + 1):
        left = started + 60 * minutes * number / periods - time.monotonic()
        asyncio.run(period(port, max(left, 1.0), chance, outcomes))
        first, *decoders = children_of(pid) or [0]
        if first != worker:
            return ["the worker was replaced; see the log"]
        curves["server"].append(sample(pid, len(decoders)))
        curves["worker"].append(sample(worker))
        seconds.append(time.monotonic() - started)
    print_table(seconds, curves)
    print(f"honest requests: {dict(outcomes.most_common())}")
    wrong = judge(curves)
    wrong += [
        f"{count} times: {seen}" for seen, count in outcomes.items() if seen not in ACCEPTABLE
    ]
    if not outcomes["200"]:
        wrong.append("no honest request was served")
    return wrong


def main() -> int:
    """Parse the command line, run, print the verdict; return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description="Soak the server in honest and hostile traffic.")
    parser.add_argument("--model", default="star-mini", help="a model's name or directory")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--periods", type=int, default=20, help="samples, at least 6")
    arguments = parser.parse_args()
    if arguments.periods < 6:
        parser.error("--periods must be at least 6: two for the warm-up, and enough for a slope")
    model, threads = arguments.model, arguments.threads
    with serving(model=model, threads=threads, workers=1) as (port, pid):
        print(
            f"{arguments.model}, {os.cpu_count()} cores, load of the machine {os.getloadavg()[0]:.1f}"
        )
        wrong = run(port, pid, arguments.minutes, arguments.periods)
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    print("verdict: " + ("not flat" if wrong else "flat"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
