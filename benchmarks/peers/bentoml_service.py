"""The engine in BentoML with adaptive batching: ``bentoml serve benchmarks.peers.bentoml_service:Generate``.

As https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html advises for requests of several fields: one
service that paints batches, and a wrapper that passes on one request at a time. The processes that BentoML starts read
``PEERS_ENGINE``, ``PEERS_LOG`` and ``PEERS_LATENCY_MS``, the ``max_latency_ms`` of batches, from the environment.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType
from PIL.Image import Image
from pydantic import BaseModel

from benchmarks.peers.painters import MOST_TOGETHER, Request, open_painter, png

File = Annotated[bytes, ContentType("image/png")]


class BatchInput(BaseModel):
    """One request of a batch."""

    prompt: str
    seed: int


@bentoml.service(workers=1, traffic={"timeout": 600})
class Paint:
    """Paints batches; one worker, as there is one device."""

    def __init__(self) -> None:
        self._painter = open_painter(os.environ["PEERS_ENGINE"], Path(os.environ["PEERS_LOG"]))

    @bentoml.api(  # type: ignore[untyped-decorator]
        batchable=True,
        max_batch_size=MOST_TOGETHER,
        max_latency_ms=int(os.environ["PEERS_LATENCY_MS"]),
    )
    def paint(self, inputs: list[BatchInput]) -> list[Image]:
        return self._painter.paint([Request(each.prompt, each.seed) for each in inputs])


@bentoml.service(traffic={"timeout": 600})
class Generate:
    """Passes on one request."""

    batch = bentoml.depends(Paint)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def generate(self, prompt: str, seed: int) -> File:
        (image,) = await self.batch.to_async.paint([BatchInput(prompt=prompt, seed=seed)])
        return await asyncio.to_thread(png, image)
