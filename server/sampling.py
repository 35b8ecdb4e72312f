"""Sampling parameters as requests and commands give them: each may be left out for the model's default."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from star_model.sampling import GuidanceByScale, Sampling, TemperatureByScale


def _optional(name: str) -> Any:
    """Return a field with the range and description of a parameter of :class:`Sampling`, and None as default."""
    declared = Sampling.model_fields[name]
    bounds = ("ge", "gt", "le", "lt")
    ranges = {b: getattr(m, b) for m in declared.metadata for b in bounds if hasattr(m, b)}
    return Field(None, description=declared.description, **ranges)


class SamplingOverrides(BaseModel):
    """The parameters of :class:`Sampling`; None is the model's default."""

    guidance_scale: float | None = _optional("guidance_scale")
    top_k: int | None = _optional("top_k")
    top_p: float | None = _optional("top_p")
    smooth_scales: int | None = _optional("smooth_scales")
    unguided_scales: int | None = _optional("unguided_scales")
    unguided_temperature: float | None = _optional("unguided_temperature")
    guidance_from: int | None = _optional("guidance_from")
    mixed_scales: int | None = _optional("mixed_scales")
    draft: int | None = _optional("draft")
    temperature: float | None = _optional("temperature")
    guidance_by_scale: GuidanceByScale | None = _optional("guidance_by_scale")
    temperature_by_scale: TemperatureByScale | None = _optional("temperature_by_scale")
