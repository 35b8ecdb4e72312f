"""Names of the loaded model: its own, and those that clients of OpenAI's API use."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase

from server.errors import ModelNotFound, UnknownModel
from server.messages import ModelInfo
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


def check_name(name: str | None, loaded: ModelInfo, settings: Settings) -> None:
    """Refuse the name of a model that is not loaded; None stands for the loaded one.

    Raises:
        ModelNotFound: the name is neither that of the loaded model nor an alias.
    """
    if name is not None and name != loaded.name and not is_alias(name, settings):
        raise ModelNotFound(_unknown(name, loaded), param="model")


def check_images_name(name: str | None, loaded: ModelInfo, settings: Settings) -> None:
    """Refuse the name of another model on an images route, where OpenAI answers 400; a strict server answers 404.

    Raises:
        UnknownModel: see :func:`check_name`.
        ModelNotFound: the same, of a strict server.
    """
    try:
        check_name(name, loaded, settings)
    except ModelNotFound as error:
        if settings.compatibility == "strict":
            raise
        raise UnknownModel(error.message, param="model") from error


def _unknown(name: str, loaded: ModelInfo) -> str:
    shown = json.dumps(shorten(name), ensure_ascii=False)
    return f"This server has no model {shown}; it has {loaded.name}."
