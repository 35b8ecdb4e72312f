"""STAR, the scale-wise text-to-image model: loading, converting, and generating one scale at a time.

Names are imported when they are first used, so that a module that needs no PyTorch does not import it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from star_model.threads import limit_spinning

if TYPE_CHECKING:
    from star_model import errors
    from star_model.checkpoints.hub import resolve_model
    from star_model.checkpoints.native import load_model
    from star_model.checkpoints.saving import save_model
    from star_model.config import ModelConfig
    from star_model.engine.editing import Edit, make_edit, place_on_canvas
    from star_model.engine.engine import Engine
    from star_model.engine.generation import generate, generate_many
    from star_model.engine.sequence import ImageSequence
    from star_model.families.registry import PRESETS
    from star_model.model import StarModel
    from star_model.networks.text_encoder import ClassConditioning, TextConditioning
    from star_model.sampling import Sampling
    from star_model.scales import ScaleSchedule

limit_spinning()  # first of all: any other module of this package may load torch

_HOMES = {
    "ClassConditioning": "networks.text_encoder",
    "PRESETS": "families.registry",
    "Edit": "engine.editing",
    "Engine": "engine.engine",
    "ImageSequence": "engine.sequence",
    "ModelConfig": "config",
    "Sampling": "sampling",
    "ScaleSchedule": "scales",
    "StarModel": "model",
    "TextConditioning": "networks.text_encoder",
    "generate": "engine.generation",
    "generate_many": "engine.generation",
    "load_model": "checkpoints.native",
    "make_edit": "engine.editing",
    "place_on_canvas": "engine.editing",
    "resolve_model": "checkpoints.hub",
    "save_model": "checkpoints.saving",
}

__all__ = [
    "PRESETS",
    "ClassConditioning",
    "Edit",
    "Engine",
    "ImageSequence",
    "ModelConfig",
    "Sampling",
    "ScaleSchedule",
    "StarModel",
    "TextConditioning",
    "errors",
    "generate",
    "generate_many",
    "load_model",
    "make_edit",
    "place_on_canvas",
    "resolve_model",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("star_model.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
