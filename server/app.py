"""The ASGI app: the endpoints around the served models. It does not import torch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI
from prometheus_client import Histogram
from starlette.middleware.cors import CORSMiddleware

from server import __version__
from server.api import (
    admin,
    batches,
    docs,
    files,
    generate,
    health,
    hugging_face,
    image_content,
    openai_edits,
    openai_images,
    playground,
    vocabulary,
)
from server.api import (
    models as model_routes,
)
from server.api.admin import Administration
from server.api.batch_line import serve_line
from server.api.context import Context
from server.api.openapi import Api
from server.batches.opening import open_objects
from server.batches.run import LineRequest, Serve
from server.batches.service import BatchService
from server.dispatch.served_models import ServedModels
from server.dispatch.worker_process import Run, WorkerProcess, run_worker
from server.http.admin_key import AdminKeyCheck
from server.http.auth import ApiKeyCheck
from server.http.body_budget import BodyBudget
from server.http.browser_check import HostCheck, OriginCheck
from server.http.error_handlers import install_error_handlers
from server.http.forwarded import Forwarded
from server.http.key_watch import ServerKeys
from server.http.rate_limit import RateLimitCheck, RateLimits
from server.http.request_guard import RequestGuard
from server.http.request_log import RequestLog, endpoint_names
from server.images.credentials import open_signer
from server.images.decode_pool import DecodePool
from server.images.encode import ImageEncoder
from server.images.stores.opening import open_store
from server.logs import set_log_level
from server.messages import FromWorker
from server.metrics import Metrics
from server.model_settings import WorkerSettings
from server.reloading import Reloading, with_live
from server.safety.gate import open_gate
from server.settings import Settings
from server.tracing.exemplar import CURRENT
from star_model.checkpoints.hub import check_model

if TYPE_CHECKING:
    from server.tracing.tracing import Tracing

_DESCRIPTION = """\
Text to image with STAR, scale-wise autoregressive models that generate images from coarse to fine.

The body of every error, of every endpoint, is `{"error": {"message", "type", "param", "code"}}`. Every answer has an
`x-request-id`, taken from the request or generated, and `x-total-time` in seconds.
"""

_TAGS = (
    ("images", "The native API: all parameters, previews, edits."),
    ("OpenAI", "Images and models as OpenAI's clients ask for them."),
    ("Hugging Face", "Text to image as Hugging Face's client asks for it."),
    ("operation", "Probes, metrics and the playground."),
)
"""Sections of the documentation, in the order of its page."""

_FORM_BYTES = 4096
"""What a form adds to the file in it."""

_RATE_LIMIT_HEADERS = tuple(
    f"x-ratelimit-{what}-{noun}"
    for what in ("limit", "remaining", "reset")
    for noun in ("requests", "images")
)
_EXPOSED_HEADERS = (
    *("x-request-id", "x-queue-time", "x-inference-time", "x-total-time", "x-seed", "x-warnings"),
    *(
        "traceparent",
        "retry-after",
        "x-should-retry",
        *_RATE_LIMIT_HEADERS,
        "content-disposition",
        "content-range",
        "etag",
    ),
)

_ADMIN_BODY_BYTES = 1 << 16

PARTS = (
    *(playground, generate, openai_images, openai_edits, image_content, files, batches),
    # A model's name may be a path, so the route below it comes first.
    *(hugging_face, vocabulary, model_routes, health, docs),
)
"""Modules of ``server/api`` whose ``router`` has a part of the endpoints."""


def make_models(settings: Settings, run: Run = run_worker) -> ServedModels:
    """Return the models of the settings, which worker processes run.

    Args:
        settings: of the server.
        run: what each process runs.
    """

    def launch(
        given: WorkerSettings, index: int, deliver: Callable[[FromWorker], None]
    ) -> WorkerProcess:
        return WorkerProcess(given, index, deliver, run)

    return ServedModels(settings, launch, check_model=check_model)


def create_app(
    settings: Settings,
    models: ServedModels,
    reloading: Reloading | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """Return the app; its lifespan starts and closes the models.

    Args:
        settings: of the server.
        models: that it serves; not started yet.
        reloading: tells the app of new settings.
        tracing: records the traces of requests; the app closes it.
    """
    metrics = models.metrics
    reloading = reloading or Reloading(settings, metrics)
    # Callers have an allowance of their own for batch work.
    limits, batch_limits = (
        RateLimits(settings.requests_per_minute, settings.images_per_minute) for _ in range(2)
    )

    async def serve(asked: LineRequest) -> bytes:
        return await serve_line(replace(app.state.context, limits=batch_limits), asked)

    context = Context(
        settings,
        models,
        _open_encoder(settings, metrics),
        _open_decoder(settings, metrics),
        open_store(settings, metrics.count_store_error),
        limits,
        ServerKeys(settings, metrics),
        open_gate(settings, metrics),
        _open_batches(settings, metrics, serve),
    )
    app = _bare_app(partial(_lifespan, context, tracing))
    app.state.context = context
    metrics.expect(endpoint_names([app.router, *(part.router for part in PARTS)]))
    _add_middleware(app, settings, metrics, limits, context.keys, tracing)
    app.state.reloading = reloading
    reloading.steps += [partial(_take_settings, app, (limits, batch_limits)), context.keys.prepare]
    return app


@asynccontextmanager
async def _lifespan(context: Context, tracing: Tracing | None, _: FastAPI) -> AsyncIterator[None]:
    """Start the parts of an app, and close them in an order in which none needs one that is closed."""
    context.models.start()
    context.store.start()
    context.keys.start()
    if context.safety is not None:
        context.safety.start()
    if context.batches is not None:
        context.batches.start()
    try:
        yield
    finally:
        if context.batches is not None:
            await context.batches.close()
        await context.keys.close()
        await context.models.close()
        context.decoder.close()
        if context.safety is not None:
            context.safety.close()
        context.encoder.close()
        await context.store.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


def _bare_app(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> Api:
    app = Api(
        title="STAR server",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        openapi_tags=[{"name": name, "description": text} for name, text in _TAGS],
        docs_url=None,  # FastAPI's own pages load scripts from other servers
        redoc_url=None,
        # Its own spans would hold the secret in an image's address; those of server/tracing do not.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        redirect_slashes=False,  # the target is wrong behind a proxy; the error names the right path
    )
    for part in PARTS:
        app.include_router(part.router)
    install_error_handlers(app)
    return app


def create_admin_app(models: ServedModels, reloading: Reloading, key: str) -> FastAPI:
    """Return the app of the port for administrators.

    It has metrics of its own, which nobody reads: those of the server are about its callers.

    Args:
        models: of the server.
        reloading: reads its settings again.
        key: that requests must have.
    """
    app = Api(
        title="STAR server: administration", version=__version__, docs_url=None, redoc_url=None
    )
    app.state.administration = Administration(models, reloading)
    app.include_router(admin.router)
    metrics = Metrics()
    app.add_middleware(
        RequestGuard,
        metrics=metrics,
        budget=BodyBudget(16 * _ADMIN_BODY_BYTES, _ADMIN_BODY_BYTES),
        max_body_bytes=_ADMIN_BODY_BYTES,
        max_upload_bytes=_ADMIN_BODY_BYTES,
        max_file_bytes=_ADMIN_BODY_BYTES,
        body_timeout_s=reloading.settings.body_timeout_s,
    )
    app.add_middleware(AdminKeyCheck, key=key)
    app.add_middleware(RequestLog, metrics=metrics)
    install_error_handlers(app)
    return app


def _take_settings(app: FastAPI, limits: Sequence[RateLimits], new: Settings) -> Callable[[], None]:
    """Return what puts new settings into force; a step of :class:`Reloading`."""

    def act() -> None:
        context: Context = app.state.context
        app.state.context = replace(context, settings=with_live(context.settings, new))
        context.models.change(new)
        for allowance in limits:
            allowance.change(new.requests_per_minute, new.images_per_minute)
        set_log_level(new.log_level)

    return act


def _open_encoder(settings: Settings, metrics: Metrics) -> ImageEncoder:
    observe = _with_exemplar(metrics.image_encode)
    return ImageEncoder(settings.encode_threads, observe, open_signer(settings))


def _open_batches(settings: Settings, metrics: Metrics, serve: Serve) -> BatchService | None:
    """Return batch work, if the settings ask for it."""
    objects = open_objects(
        settings, lambda operation: metrics.batch_store_errors.labels(operation).inc()
    )
    return BatchService(objects, settings, metrics, serve) if objects is not None else None


def _open_decoder(settings: Settings, metrics: Metrics) -> DecodePool:
    return DecodePool(
        settings.decode_processes,
        settings.decode_timeout_s,
        settings.decode_memory_bytes or (512 << 20) + 32 * settings.max_image_pixels,
        observe=_with_exemplar(metrics.image_decode),
        refused=lambda reason: metrics.uploads_refused.labels(reason).inc(),
    )


def _with_exemplar(histogram: Histogram) -> Callable[[float], None]:
    """Return a function that observes seconds in the trace of the request that its caller serves."""
    return lambda seconds: histogram.observe(seconds, CURRENT.get())


def _add_middleware(
    app: Api,
    settings: Settings,
    metrics: Metrics,
    limits: RateLimits,
    keys: ServerKeys,
    tracing: Tracing | None,
) -> None:
    """Add the middleware, from the innermost to the outermost."""
    app.add_middleware(RateLimitCheck, limits=limits, metrics=metrics)
    if keys.ring:
        app.with_keys = True
        app.add_middleware(ApiKeyCheck, keys=keys, metrics=metrics)
    bodies = settings.max_bodies_bytes or 16 * settings.max_upload_bytes
    file_bytes = settings.max_upload_bytes
    if settings.batch_store is not None:
        file_bytes = min(settings.batch_file_bytes + _FORM_BYTES, bodies)
    app.add_middleware(
        RequestGuard,
        metrics=metrics,
        budget=BodyBudget(bodies, max(settings.max_upload_bytes, file_bytes)),
        max_body_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        max_file_bytes=file_bytes,
        body_timeout_s=settings.body_timeout_s,
    )
    if not app.with_keys:
        app.add_middleware(
            OriginCheck, origins=settings.cors_origins, public_url=settings.public_url
        )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
        )
    if settings.allowed_hosts is not None:
        app.add_middleware(HostCheck, hosts=settings.allowed_hosts)
    app.add_middleware(
        RequestLog,
        metrics=metrics,
        log_client_address=settings.log_client_address,
        tracing=tracing,
    )
    app.add_middleware(Forwarded, proxies=settings.trusted_proxies, root_path=settings.root_path)
