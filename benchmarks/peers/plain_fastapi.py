"""Twenty lines of FastAPI around the engine: ``python -m benchmarks.peers.plain_fastapi PORT ENGINE LOG``.

A path operation declared with ``def`` runs in a pool of 40 threads, as https://fastapi.tiangolo.com/async/ advises for
code that blocks. Each request is painted by itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

from benchmarks.peers.painters import Request, open_painter, png


class Body(BaseModel):
    """Body of a request."""

    prompt: str
    seed: int


def main(port: str, engine: str, log: str) -> None:
    """Serve."""
    app, painter = FastAPI(), open_painter(engine, Path(log))

    @app.post("/generate")
    def generate(body: Body) -> Response:
        (image,) = painter.paint([Request(body.prompt, body.seed)])
        return Response(png(image), media_type="image/png")

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
