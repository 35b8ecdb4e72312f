"""STAR, the scale-wise text-to-image model: loading, converting, and painting one scale at a time.

Names are imported when they are first used, so that importing a module of integers does not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from star_model import errors
    from star_model.checkpoint import load_model, save_model
    from star_model.config import PRESETS, ModelConfig, SamplingDefaults
    from star_model.editing import Edit, make_edit, place_on_canvas
    from star_model.engine import Engine
    from star_model.hub import resolve_model
    from star_model.model import StarModel
    from star_model.sampling import SamplingParams
    from star_model.scales import ScaleSchedule
    from star_model.sequence import ImageSequence
    from star_model.text_encoder import ClassConditioning, TextConditioning

_HOMES = {
    "ClassConditioning": "text_encoder",
    "PRESETS": "config",
    "Edit": "editing",
    "Engine": "engine",
    "ImageSequence": "sequence",
    "ModelConfig": "config",
    "SamplingDefaults": "config",
    "SamplingParams": "sampling",
    "ScaleSchedule": "scales",
    "StarModel": "model",
    "TextConditioning": "text_encoder",
    "load_model": "checkpoint",
    "make_edit": "editing",
    "place_on_canvas": "editing",
    "resolve_model": "hub",
    "save_model": "checkpoint",
}

__all__ = [
    "PRESETS",
    "ClassConditioning",
    "Edit",
    "Engine",
    "ImageSequence",
    "ModelConfig",
    "SamplingDefaults",
    "SamplingParams",
    "ScaleSchedule",
    "StarModel",
    "TextConditioning",
    "errors",
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
