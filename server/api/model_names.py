"""Names of the loaded models: their own, and those that clients of OpenAI's API use for the first one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

from server.api.context import Context
from server.dispatch.engine_client import EngineClient
from server.dispatch.served_model import ServedModel
from server.dispatch.served_models import ServedModels, unavailable
from server.errors import ModelNotFound, Unavailable, UnknownModel
from server.settings import Settings
from server.validation import shorten

_OPENAI_MODELS = (
    "gpt-image-2.6-sunburst",
    "gpt-image-2.6-flare",
    "gpt-image-2.5-sunburst",
    "gpt-image-2.5-flare",
    "gpt-image-2",
    "gpt-image-1.5",
    "gpt-image-1",
    "gpt-image-1-mini",
    "chatgpt-image-latest",
    "dall-e-3",
    "dall-e-2",
)
"""Models that a pattern among the aliases may stand for, to be listed."""


def is_alias(name: str, settings: Settings) -> bool:
    """Tell whether a name is one of ``model_aliases``; a strict server has none."""
    return settings.compatibility == "lenient" and any(
        fnmatchcase(name.lower(), alias.lower()) for alias in settings.model_aliases
    )


def listed_aliases(settings: Settings) -> list[str]:
    """Return the aliases that a list of models can name: those that are no pattern, and OpenAI's that match one."""
    plain = [
        name for name in settings.model_aliases if is_alias(name, settings) and "*" not in name
    ]
    return list(
        dict.fromkeys(plain + [name for name in _OPENAI_MODELS if is_alias(name, settings)])
    )


def engine_of(name: str | None, context: Context) -> EngineClient:
    """Return the engine of the model that a request names; None and aliases stand for the first model.

    Raises:
        ModelNotFound: the server has no model of that name.
        Unavailable: the model cannot serve right now.
    """
    model = _find(name, context)
    if context.models.several and model.failure is not None:
        raise unavailable(model)
    model.engine.check_ready()
    return model.engine


@contextmanager
def serving(
    name: str | None, context: Context, *, as_openai: bool = False
) -> Iterator[EngineClient]:
    """Hold the engine of the model that a request names, until the request has been queued there.

    Args:
        name: see :func:`engine_of`.
        context: of the app.
        as_openai: answer as OpenAI's images routes do, 400 to unknown names, unless the server is strict.

    Raises:
        UnknownModel, ModelNotFound: the server has no model of that name.
        Unavailable: the model cannot serve right now; counted as a refusal.
    """
    try:
        engine = engine_of(name, context)
    except ModelNotFound as error:
        if as_openai and context.settings.compatibility == "lenient":
            raise UnknownModel(error.message, param="model") from error
        raise
    except Unavailable as error:
        context.models.metrics.reject(error)
        raise
    with engine.held():
        yield engine


def _find(name: str | None, context: Context) -> ServedModel:
    models = context.models
    if name is None or is_alias(name, context.settings):
        return models.first
    if (found := models.find(name)) is not None and (models.several or found.info is not None):
        return found
    for model in models:  # the name of a model is known once it has been loaded
        if not model.settled:
            model.engine.check_ready()
    raise ModelNotFound(_unknown(name, models), param="model")


def _unknown(name: str, models: ServedModels) -> str:
    shown = json.dumps(shorten(name), ensure_ascii=False)
    *most, last = [model.name for model in models if model.failure is None]
    served = f"{', '.join(most)} and {last}" if most else last
    return f"This server has no model {shown}; it has {served}."
