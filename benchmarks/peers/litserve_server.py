"""The engine in LitServe, batched: ``python -m benchmarks.peers.litserve_server PORT ENGINE LOG``.

Batches as https://lightning.ai/docs/litserve/features/batching sets them up: ``max_batch_size`` and ``batch_timeout``
of the API. One worker, as there is one device.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import litserve
from fastapi import Response

from benchmarks.peers.painters import MOST_TOGETHER, Request, open_painter, png


class PaintApi(litserve.LitAPI):  # type: ignore[misc]
    """Requests to images.

    Args:
        engine: see :func:`benchmarks.peers.painters.open_painter`.
        log: the same.
    """

    def __init__(self, engine: str, log: str) -> None:
        super().__init__(max_batch_size=MOST_TOGETHER, batch_timeout=0.01)
        self._engine, self._path = engine, log

    def setup(self, device: str) -> None:
        self._painter = open_painter(self._engine, Path(self._path))

    # Without a type, since LitServe has FastAPI read the body as the type that stands here.
    def decode_request(self, request, **_: Any) -> Request:  # type: ignore[no-untyped-def]
        return Request(request["prompt"], request["seed"])

    def batch(self, inputs: list[Request]) -> list[Request]:
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def predict(self, x: list[Request], **_: Any) -> list[Any]:
        return self._painter.paint(x)

    def encode_response(self, output: Any, **_: Any) -> Response:
        return Response(png(output), media_type="image/png")


def main(port: str, engine: str, log: str) -> None:
    """Serve."""
    # Requests wait as long as they must, as in the others; by default they fail after 30 s.
    server = litserve.LitServer(PaintApi(engine, log), accelerator="cpu", timeout=600)
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
