"""The service on Ray Serve: one replica per GPU, each with the same app.

``serve run server.ray.app:build model=star-512``, or a Serve config such as ``deploy/ray/star.yaml``. The
arguments are the server's settings.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.app import create_app, make_models
from server.logs import configure_logging
from server.metrics import CONTENT_TYPE
from server.ray.metrics import merge_metrics
from server.settings import Settings
from server.tracing.opening import open_tracing
from server.validation import complaints

_LOOK_SECONDS = 0.1
_SCRAPE_SECONDS = 5.0
_END_SECONDS = 15.0
"""Seconds for a worker to end after the last request."""


@serve.deployment(name="star", health_check_period_s=10, health_check_timeout_s=30)
@serve.ingress()
class Replica:
    """One app with one worker process.

    Ray sends it requests once the model is warm, and replaces it when the replica or its supervisor has died. A worker
    that dies is restarted by the replica, as without Ray.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level, settings.log_format)
        context = serve.get_replica_context()
        self._id = context.replica_id.unique_id
        self._all = serve.get_deployment_handle(context.deployment, context.app_name)
        self._settings = settings
        self._models = make_models(settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app that Ray serves: it loads the model first, and its ``/metrics`` covers all replicas."""
        app = create_app(self._settings, self._models, tracing=open_tracing())
        # Ray sends a scrape to any one replica, which answers for all; the first matching route is used.
        app.router.routes.insert(0, Route("/metrics", self._show_metrics))
        run = app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with run(app):
                await self._load()
                yield

        app.router.lifespan_context = lifespan
        return app

    async def check_health(self) -> None:
        """Raise an exception if Ray, which calls this, is to replace the replica."""
        if not self._models.alive:
            raise RuntimeError("The engine's supervisor has died.")

    def own_metrics(self) -> tuple[str, str]:
        """Return this replica's id and its metrics in Prometheus' text format."""
        return self._id, self._models.metrics.render().decode("utf-8")

    async def _show_metrics(self, request: Request) -> Response:
        answers = await self._all.broadcast("own_metrics").results_async(
            timeout_s=_SCRAPE_SECONDS, return_exceptions=True
        )
        texts = dict(answer for answer in answers if not isinstance(answer, BaseException))
        return Response(merge_metrics(texts), media_type=CONTENT_TYPE)

    async def _load(self) -> None:
        while not self._models.settled:
            if (reason := self._models.fatal) is not None:
                raise RuntimeError(reason)
            await asyncio.sleep(_LOOK_SECONDS)


def build(given: dict[str, Any]) -> serve.Application:
    """Return the application for ``serve run`` and ``serve deploy``.

    Args:
        given: settings by name; they override variables ``STAR_...`` of the process that builds the application.
            ``host`` and ``port`` have no effect: Ray's proxy listens.

    Raises:
        ValueError: a setting is unknown or invalid; the text names it.
    """
    settings = _settings(given)
    deployment: Any = Replica  # its decorators make it a deployment, which the types do not show
    return deployment.options(
        ray_actor_options={"num_gpus": 0 if settings.device == "cpu" else 1},
        # Twice what a replica admits, so that the replica itself refuses the excess, with a Retry-After.
        max_ongoing_requests=2 * (settings.slots + settings.queue_capacity),
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 8,
            "target_ongoing_requests": settings.slots,
            "upscale_delay_s": 10,
            "downscale_delay_s": 300,
        },
        graceful_shutdown_timeout_s=settings.drain_timeout_s + _END_SECONDS,
    ).bind(settings)


def _settings(given: Mapping[str, Any]) -> Settings:
    ours = {"workers": 1, "log_format": "json"}
    try:
        settings = Settings(**{**ours, **given})
    except ValidationError as error:
        raise ValueError(
            " ".join(c.message for c in complaints(error.errors(), Settings, skip=0))
        ) from error
    if settings.image_store != "memory" or "stored_images" in given:
        return settings
    # An image in memory is kept by the replica that generated it, and the next request may go to another.
    return settings.model_copy(update={"stored_images": 0})
