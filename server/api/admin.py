"""What administrators do to a running server, on a port of their own: exchange a model, have settings read again."""

from __future__ import annotations

from typing import Annotated, Self

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from server.api.schemas import input_config, output_config
from server.dispatch.served_model import ServedModel, Swap, SwapPhase
from server.dispatch.served_models import ServedModels
from server.dispatch.worker_state import Phase
from server.errors import InvalidRequest, ModelNotFound, NotFound
from server.http.json_body import BodyRoute
from server.reloading import Reloading
from server.settings_file import SettingsFileError

router = APIRouter(route_class=BodyRoute)


class Administration:
    """What the routes act on.

    Args:
        models: of the server.
        reloading: reads its settings again.
    """

    def __init__(self, models: ServedModels, reloading: Reloading) -> None:
        self.models = models
        self.reloading = reloading


async def _administration(request: Request) -> Administration:
    administration: Administration = request.app.state.administration
    return administration


Acting = Annotated[Administration, Depends(_administration)]


class SwapRequest(BaseModel):
    """A model that is to take over."""

    model_config = input_config({"model": "/var/lib/star/models/star-512-new"})

    model: str = Field(
        min_length=1, max_length=4096, description="Name or directory of the new model."
    )
    replaces: str | None = Field(
        None,
        max_length=256,
        description="Name of the model whose place it takes; may be left out where there is one.",
    )


class SwapResponse(BaseModel):
    """The latest swap of a model."""

    model_config = output_config({"model": "star-512-new", "phase": "loading", "seconds": 12.5})

    model: str = Field(description="Name or directory of the new model.")
    phase: SwapPhase = Field(description="Of the swap; after `failed`, the old model goes on.")
    seconds: float = Field(description="That it has taken, or took.")
    reason: str | None = Field(None, description="Why it failed.")

    @classmethod
    def of(cls, swap: Swap, now: float) -> Self:
        """Return the answer's form of a swap."""
        until = swap.ended_at if swap.ended_at is not None else now
        return cls(
            model=swap.model,
            phase=swap.phase,
            seconds=round(until - swap.began_at, 1),
            reason=swap.reason,
        )


class PlaceResponse(BaseModel):
    """A model, and its latest swap."""

    model_config = output_config(
        {
            "name": "star-512",
            "model": "/var/lib/star/models/star-512",
            "phase": "ready",
            "under_way": 3,
            "retiring": 0,
            "swap": None,
        }
    )

    name: str = Field(description="Its name in requests.")
    model: str = Field(description="Its name or directory.")
    phase: Phase = Field(description="Of the worker that is furthest.")
    under_way: int = Field(description="Images that have been admitted and are not finished.")
    retiring: int = Field(description="Models before it that still finish what they had begun.")
    swap: SwapResponse | None = Field(description="The latest; null if there has been none.")

    @classmethod
    def of(cls, served: ServedModel, now: float) -> Self:
        """Return the answer's form of a model."""
        return cls(
            name=served.name,
            model=served.model,
            phase=served.engine.phase,
            under_way=sum(engine.outstanding for engine in served.engines),
            retiring=len(served.retired),
            swap=SwapResponse.of(served.swap, now) if served.swap is not None else None,
        )


class PlacesResponse(BaseModel):
    """All models of the server."""

    models: list[PlaceResponse]


class ReloadResponse(BaseModel):
    """What reading the settings again has changed."""

    model_config = output_config({"changed": ["queue_capacity"], "need_restart": ["slots"]})

    changed: list[str] = Field(description="Settings with new values, in force from now on.")
    need_restart: list[str] = Field(
        description="Settings with new values, which need a restart of the server."
    )


@router.get("/admin/model", summary="The models and their latest swaps")
async def show(acting: Acting) -> PlacesResponse:
    """Describe each model, what is under way, and its latest swap."""
    now = acting.models.clock()
    return PlacesResponse(models=[PlaceResponse.of(served, now) for served in acting.models])


@router.post("/admin/model", summary="Exchange a model")
async def exchange(body: SwapRequest, acting: Acting) -> PlaceResponse:
    """Load a model beside the one that serves, and let it take over once all its workers are ready.

    The answer comes when that is done, or has failed: then the old model goes on. Requests that were under way end on
    the old one. A caller that leaves does not stop the swap; `GET /admin/model` tells how it goes.
    """
    old = _place(body.replaces, acting.models)
    await acting.models.exchange(old, body.model)
    return PlaceResponse.of(old, acting.models.clock())


@router.delete("/admin/model", summary="Give up a swap")
async def give_up(acting: Acting, replaces: Annotated[str | None, Query()] = None) -> PlaceResponse:
    """Give up the swap that is under way; the old model goes on, and whoever waits for the swap is told."""
    old = _place(replaces, acting.models)
    if not old.give_up():
        raise NotFound("No swap is under way.")
    return PlaceResponse.of(old, acting.models.clock())


@router.post("/admin/reload", summary="Read the settings again")
async def reload(acting: Acting) -> ReloadResponse:
    """Read the file of the settings, and files that they name, again, as SIGHUP does."""
    try:
        changes = acting.reloading.reload()
    except SettingsFileError as error:
        raise InvalidRequest(str(error)) from error
    return ReloadResponse(changed=list(changes.changed), need_restart=list(changes.waiting))


def _place(replaces: str | None, models: ServedModels) -> ServedModel:
    """Return the model whose place a new one takes.

    Raises:
        InvalidRequest: there are several, and none is named.
        ModelNotFound: there is none of that name.
    """
    names = ", ".join(model.name for model in models)
    if replaces is None:
        if models.several:
            raise InvalidRequest(
                f"replaces must name the model whose place is taken: {names}.", param="replaces"
            )
        return models.first
    if (found := models.find(replaces)) is None:
        raise ModelNotFound(f"replaces must be one of {names}.", param="replaces")
    return found
