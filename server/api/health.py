"""Probes and metrics."""

from __future__ import annotations

from typing import Literal, Self

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from server.api.accept import preferred
from server.api.context import AppContext
from server.api.responses import error_responses
from server.api.schemas import output_config
from server.dispatch.served_model import ServedModel
from server.dispatch.worker_state import EndCause, Phase, WorkerPhase, WorkerState
from server.errors import Unavailable
from server.metrics import CONTENT_TYPE, OPEN_METRICS_TYPE

router = APIRouter(tags=["operation"])

_OPEN_METRICS = "application/openmetrics-text"
_END = {"cause": "killed", "reason": "the worker ended with SIGSEGV", "seconds_ago": 3.5}


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
    models: dict[str, Phase] | None = Field(
        None, description="Phase of each model, where there are several."
    )


class WorkerEndResponse(BaseModel):
    """How the last process of a worker ended."""

    model_config = output_config(_END)

    cause: EndCause = Field(
        description="`exited` by itself; `killed` by a signal, as of a kernel short of memory; `load_failed`; "
        "`not_started`: no process could be launched. By the server: `silent` (no heartbeat), `load_timeout`, "
        "`stalled` (one step took too long)."
    )
    reason: str = Field(description="The same for people, with details.")
    seconds_ago: float


class WorkerResponse(BaseModel):
    """One worker."""

    model_config = output_config(
        {
            "worker": 0,
            "phase": "loading",
            "phase_seconds": 2.5,
            "restarts": 1,
            "last_end": _END,
        }
    )

    worker: int = Field(description="Its number, from 0, as in metrics and logs.")
    model: str | None = Field(None, description="Its model, where there are several.")
    phase: WorkerPhase = Field(
        description="`restarting` and `failed` are the pause before the next start; in `failed` the model has never "
        "been loaded."
    )
    phase_seconds: float = Field(description="Seconds since the phase began.")
    restarts: int = Field(description="Processes of this worker that have ended so far.")
    last_end: WorkerEndResponse | None = Field(None, description="Of the latest that has ended.")

    @classmethod
    def of(cls, state: WorkerState, model: str | None = None) -> Self:
        """Return the answer's form of a state."""
        end, ago = state.last_end, state.last_end_seconds
        return cls(
            worker=state.index,
            model=model,
            phase=state.phase,
            phase_seconds=round(state.phase_seconds, 1),
            restarts=state.restarts,
            last_end=None
            if end is None or ago is None
            else WorkerEndResponse(cause=end.cause, reason=end.reason, seconds_ago=round(ago, 1)),
        )


class ModelResponse(BaseModel):
    """One of several models."""

    model_config = output_config(
        {"model": "star-mini", "phase": "ready", "phase_seconds": 12.5, "started": True}
    )

    model: str = Field(description="Its name.")
    phase: Phase = Field(description="Of its worker that is furthest.")
    phase_seconds: float = Field(description="Seconds since the phase began.")
    started: bool = Field(description="Whether it has been loaded.")
    error: str | None = Field(None, description="Reason why it is not served.")

    @classmethod
    def of(cls, model: ServedModel) -> Self:
        """Return the answer's form of a model."""
        return cls(
            model=model.name,
            phase=model.engine.phase,
            phase_seconds=round(model.engine.phase_seconds, 1),
            started=model.info is not None,
            error=model.failure,
        )


class StartupResponse(BaseModel):
    """Progress of the start, and the state of each worker."""

    model_config = output_config(
        {
            "phase": "ready",
            "phase_seconds": 12.5,
            "started": True,
            "model": "star-mini",
            "workers": [
                {"worker": 0, "phase": "ready", "phase_seconds": 12.5, "restarts": 0},
            ],
        }
    )

    phase: Phase = Field(
        description="Of the worker that is furthest; `restarting` while none is ready that was before, and `draining` "
        "while the server stops."
    )
    phase_seconds: float = Field(description="Seconds since the phase began.")
    started: bool = Field(
        description="Whether the model has been loaded; of several, whether each has been, or could not be."
    )
    model: str = Field(description="The model as the settings name it; of several, the first.")
    error: str | None = Field(None, description="Reason why the server cannot start.")
    models: list[ModelResponse] | None = Field(
        None, description="Each model, if there are several."
    )
    workers: list[WorkerResponse]


@router.get("/livez", summary="Liveness probe", responses=error_responses(503))
async def livez(context: AppContext) -> LivenessResponse:
    """Answer 200 while the event loop and the supervision of the workers run, however long the queue is."""
    if not context.models.alive:
        raise SupervisorDead("The engine's supervisor has died; restart the server.")
    return LivenessResponse()


@router.get(
    "/readyz",
    summary="Readiness probe",
    response_model_exclude_none=True,
    responses=error_responses(503),
)
@router.get(
    "/health",
    summary="The same as /readyz",
    response_model_exclude_none=True,
    responses=error_responses(503),
)
async def readyz(context: AppContext) -> ReadinessResponse:
    """Answer 200 once the model is warm; 503 while it loads, while the server shuts down, and without a worker.

    Of several models, one must be ready, and none be loading for the first time.
    """
    models = context.models
    ready = models.check_ready()
    phases = {model.name: model.engine.phase for model in models} if models.several else None
    return ReadinessResponse(model=ready[0].name, models=phases)


@router.get(
    "/startupz",
    summary="Startup probe, with the state of each worker",
    response_model_exclude_none=True,
    responses={
        503: {"model": StartupResponse, "description": "The model has not been loaded yet."}
    },
)
async def startupz(context: AppContext, answer: Response) -> StartupResponse:
    """Answer with phases, restarts and the last end of each worker as JSON: 200 once the model has been loaded, 503
    before.
    """
    models, leading = context.models, context.models.leading.engine
    answer.status_code = 200 if models.settled else 503
    return StartupResponse(
        phase=leading.phase,
        phase_seconds=round(leading.phase_seconds, 1),
        started=models.settled,
        model=models.first.model,
        error=models.fatal,
        models=[ModelResponse.of(model) for model in models] if models.several else None,
        workers=[
            WorkerResponse.of(state, model.name if models.several else None)
            for model in models
            for state in model.engine.workers.states
        ],
    )


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Metrics in Prometheus' text format or, with exemplars, in OpenMetrics'.",
            "content": {
                _OPEN_METRICS: {
                    "schema": {"type": "string"},
                    "example": "# HELP star_images Finished images.\n# TYPE star_images counter\n"
                    "star_images_total 12.0\n# EOF\n",
                },
                "text/plain": {
                    "schema": {"type": "string"},
                    "example": "# HELP star_images_total Finished images.\n"
                    "# TYPE star_images_total counter\nstar_images_total 12.0\n",
                },
            },
        }
    },
)
async def metrics(request: Request, context: AppContext) -> Response:
    """Return all counts and durations; they never hold a prompt.

    With `Accept: application/openmetrics-text` buckets of histograms have exemplars: the ids of a trace, if the server
    records traces.
    """
    asked = preferred(request.headers.get("accept"), ["text/plain", _OPEN_METRICS])
    open_metrics = asked == _OPEN_METRICS
    return Response(
        context.models.metrics.render(open_metrics=open_metrics),
        media_type=OPEN_METRICS_TYPE if open_metrics else CONTENT_TYPE,
    )
