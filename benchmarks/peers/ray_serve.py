"""The engine in Ray Serve with ``@serve.batch``: ``python -m benchmarks.peers.ray_serve PORT ENGINE LOG``.

Set up as https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html advises: a power of two as
``max_batch_size``, and a ``batch_wait_timeout_s`` far below what a request may take. ``max_ongoing_requests``, 5 by
default, would not let a batch of eight come together: it admits a batch that runs and the next one.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import ray
from PIL.Image import Image
from ray import serve
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from benchmarks.peers.painters import MOST_TOGETHER, Request, open_painter, png


@serve.deployment(max_ongoing_requests=2 * MOST_TOGETHER)
class Paint:
    """One replica, as there is one device.

    Args:
        engine: see :func:`benchmarks.peers.painters.open_painter`.
        log: the same.
    """

    def __init__(self, engine: str, log: str) -> None:
        self._painter = open_painter(engine, Path(log))

    @serve.batch(max_batch_size=MOST_TOGETHER, batch_wait_timeout_s=0.01)  # type: ignore[untyped-decorator]
    async def paint(self, requests: list[Request]) -> list[Image]:
        return await asyncio.to_thread(self._painter.paint, requests)

    async def __call__(self, request: HttpRequest) -> Response:
        body = await request.json()
        image = await self.paint(Request(body["prompt"], body["seed"]))
        return Response(await asyncio.to_thread(png, image), media_type="image/png")


def main(port: str, engine: str, log: str) -> None:
    """Serve until the process is ended."""
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(Paint.bind(engine, log))  # type: ignore[attr-defined]
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
