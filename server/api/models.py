"""``GET /v1/models``: the loaded model, in the form of OpenAI's list."""

from __future__ import annotations

import json
import time

from fastapi import APIRouter

from server.api.context import AppContext, Context
from server.api.responses import error_responses
from server.api.schemas import ModelCard, ModelList
from server.errors import ModelNotFound
from server.messages import ModelInfo
from server.validation import shorten

router = APIRouter(prefix="/v1/models", tags=["OpenAI"])


@router.get(
    "", summary="The loaded model", responses=error_responses(500, 503), operation_id="listModels"
)
async def models(context: AppContext) -> ModelList:
    """List the one loaded model and its properties, in the form of OpenAI's list."""
    return ModelList(data=[_card(context.client.check_ready(), context)])


# A name may be that of a repository on the hub, with a slash in it.
@router.get(
    "/{model:path}",
    summary="The loaded model, by its name",
    responses=error_responses(404, 500, 503),
    operation_id="retrieveModel",
)
async def model(model: str, context: AppContext) -> ModelCard:
    """Describe the loaded model; 404 for the name of any other."""
    loaded = context.client.check_ready()
    check_model(model, loaded)
    return _card(loaded, context)


def check_model(name: str | None, loaded: ModelInfo) -> None:
    """Refuse the name of a model that is not loaded; None stands for the loaded one.

    Raises:
        ModelNotFound: the text names the model that is loaded.
    """
    if name is not None and name != loaded.name:
        shown = json.dumps(shorten(name), ensure_ascii=False)
        raise ModelNotFound(
            f"This server has no model {shown}; it has {loaded.name}.", param="model"
        )


def _card(model: ModelInfo, context: Context) -> ModelCard:
    return ModelCard(
        id=model.name,
        created=int(time.time() - context.client.uptime_seconds),
        size=model.size,
        scales=list(model.patch_nums),
        parameters=model.parameters,
        **model.sampling.model_dump(),
        device=model.device,
        dtype=model.dtype,
        mode=model.mode,
        description=model.description,
        examples=list(model.examples),
        num_classes=model.num_classes,
    )
