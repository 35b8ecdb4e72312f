"""Probes and metrics."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from server.api.context import AppContext
from server.api.responses import error_responses
from server.api.schemas import output_config
from server.dispatch.supervisor import Phase
from server.errors import Unavailable
from server.metrics import CONTENT_TYPE

router = APIRouter(tags=["operation"])


class SupervisorDead(Unavailable):
    """A task that supervises the workers has died; only a restart of the server helps."""

    code = "supervisor_dead"
    retryable = False


class LivenessResponse(BaseModel):
    """The process is alive."""

    model_config = output_config({"status": "ok"})

    status: Literal["ok"] = "ok"


class ReadinessResponse(LivenessResponse):
    """The server takes requests."""

    model_config = output_config({"status": "ok", "model": "star-mini"})

    model: str


class StartupResponse(BaseModel):
    """Progress of the start."""

    model_config = output_config(
        {"phase": "ready", "phase_seconds": 12.5, "started": True, "model": "star-mini"}
    )

    phase: Phase
    phase_seconds: float = Field(description="Seconds since the phase began.")
    started: bool = Field(description="Whether the model has been loaded.")
    model: str = Field(description="The model as the settings name it.")
    error: str | None = Field(None, description="Reason why the server cannot start.")


@router.get("/livez", summary="Liveness probe", responses=error_responses(503))
async def livez(context: AppContext) -> LivenessResponse:
    """Answer 200 while the event loop and the supervision of the workers run, however long the queue is."""
    if not context.client.workers.alive:
        raise SupervisorDead("The engine's supervisor has died; restart the server.")
    return LivenessResponse()


@router.get("/readyz", summary="Readiness probe", responses=error_responses(503))
@router.get("/health", summary="The same as /readyz", responses=error_responses(503))
async def readyz(context: AppContext) -> ReadinessResponse:
    """Answer 200 once the model is warm; 503 while it loads, while the server shuts down, and without a worker."""
    return ReadinessResponse(model=context.client.check_ready().name)


@router.get(
    "/startupz",
    summary="Startup probe, with the phase of the start",
    response_model_exclude_none=True,
    responses={
        503: {"model": StartupResponse, "description": "The model has not been loaded yet."}
    },
)
async def startupz(context: AppContext, answer: Response) -> StartupResponse:
    """Answer with the phase as JSON: 200 once the model has been loaded, 503 before."""
    client = context.client
    started = client.workers.model is not None
    answer.status_code = 200 if started else 503
    return StartupResponse(
        phase=client.phase,
        phase_seconds=round(client.phase_seconds, 1),
        started=started,
        model=context.settings.model,
        error=client.workers.fatal,
    )


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Metrics in Prometheus' text format.",
            "content": {
                "text/plain": {
                    "schema": {"type": "string"},
                    "example": "# HELP star_images_total Finished images.\n"
                    "# TYPE star_images_total counter\nstar_images_total 12.0\n",
                }
            },
        }
    },
)
async def metrics(context: AppContext) -> Response:
    """Return all counts and durations; they never hold a prompt."""
    return Response(context.client.metrics.render(), media_type=CONTENT_TYPE)
