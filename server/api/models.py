"""``GET /v1/models``: the loaded models under all their names, in the form of OpenAI's list."""

from __future__ import annotations

import time

from fastapi import APIRouter

from server.api.capabilities import capabilities_of
from server.api.context import AppContext, Context
from server.api.model_names import engine_of, listed_aliases
from server.api.responses import error_responses
from server.api.schemas import ModelCard, ModelList
from server.messages import ModelInfo

router = APIRouter(tags=["OpenAI"])


@router.get("/openai/v1/models", include_in_schema=False)
@router.get("/openai/models", include_in_schema=False)
@router.get(
    "/v1/models",
    summary="The loaded models",
    responses=error_responses(500, 503),
    operation_id="listModels",
)
async def models(context: AppContext) -> ModelList:
    """List the loaded models and their properties, then other names of the first one, in the form of OpenAI's list."""
    ready = context.models.check_ready()
    cards = [_card(model, context, model.name) for model in ready]
    first = context.models.first.info
    if first in ready:
        cards += [_card(first, context, alias) for alias in listed_aliases(context.settings)]
    return ModelList(data=cards)


# A name may be that of a repository on the hub, with a slash in it.
@router.get("/openai/v1/models/{model:path}", include_in_schema=False)
@router.get("/openai/models/{model:path}", include_in_schema=False)
@router.get(
    "/v1/models/{model:path}",
    summary="A loaded model, by its name",
    responses=error_responses(404, 500, 503),
    operation_id="retrieveModel",
)
async def model(model: str, context: AppContext) -> ModelCard:
    """Describe a loaded model; 404 for the name of any other."""
    return _card(engine_of(model, context).model, context, model)


def _card(model: ModelInfo, context: Context, name: str) -> ModelCard:
    return ModelCard(
        id=name,
        alias_of=model.name if name != model.name else None,
        created=int(time.time() - context.models.uptime_seconds),
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
        license=model.license,
        capabilities=capabilities_of(model, context.settings),
        num_things=len(model.vocabulary.names) if model.vocabulary is not None else None,
    )
