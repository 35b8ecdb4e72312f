"""``GET /v1/models``: the loaded model under all its names, in the form of OpenAI's list."""

from __future__ import annotations

import time

from fastapi import APIRouter

from server.api.context import AppContext, Context
from server.api.model_names import check_name, listed_aliases
from server.api.responses import error_responses
from server.api.schemas import ModelCard, ModelList
from server.messages import ModelInfo

router = APIRouter(tags=["OpenAI"])


@router.get("/openai/v1/models", include_in_schema=False)
@router.get("/openai/models", include_in_schema=False)
@router.get(
    "/v1/models",
    summary="The loaded model",
    responses=error_responses(500, 503),
    operation_id="listModels",
)
async def models(context: AppContext) -> ModelList:
    """List the one loaded model and its properties, then its other names, in the form of OpenAI's list."""
    loaded = context.client.check_ready()
    names = [loaded.name, *listed_aliases(context.settings)]
    return ModelList(data=[_card(loaded, context, name) for name in names])


# A name may be that of a repository on the hub, with a slash in it.
@router.get("/openai/v1/models/{model:path}", include_in_schema=False)
@router.get("/openai/models/{model:path}", include_in_schema=False)
@router.get(
    "/v1/models/{model:path}",
    summary="The loaded model, by its name",
    responses=error_responses(404, 500, 503),
    operation_id="retrieveModel",
)
async def model(model: str, context: AppContext) -> ModelCard:
    """Describe the loaded model; 404 for the name of any other."""
    loaded = context.client.check_ready()
    check_name(model, loaded, context.settings)
    return _card(loaded, context, model)


def _card(model: ModelInfo, context: Context, name: str) -> ModelCard:
    return ModelCard(
        id=name,
        alias_of=model.name if name != model.name else None,
        created=int(time.time() - context.client.uptime_seconds),
        size=model.size,
        sizes=list(model.sizes),
        scales=list(model.patch_nums),
        parameters=model.parameters,
        **model.sampling.model_dump(),
        device=model.device,
        dtype=model.dtype,
        mode=model.mode,
        description=model.description,
        examples=list(model.examples),
        num_classes=model.num_classes,
        num_things=len(model.vocabulary.names) if model.vocabulary is not None else None,
    )
