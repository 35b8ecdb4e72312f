"""All published families: the presets by name, and which family a configuration belongs to."""

from __future__ import annotations

from star_model.config import ModelConfig
from star_model.families import infinity, star, switti, var
from star_model.families.family import Family

FAMILIES: tuple[Family, ...] = (star.FAMILY, switti.FAMILY, infinity.FAMILY, var.FAMILY)
"""In this order a published file is recognised: VAR last, whose names all others share."""

PRESETS: dict[str, ModelConfig] = {
    preset.name: preset for family in FAMILIES for preset in family.presets
}
"""The published models by name."""


UNPUBLISHED: dict[str, str] = {
    name: reason for family in FAMILIES for name, reason in family.unpublished.items()
}
"""Models that are described but not to be had, by name, and a sentence about each."""


def family_of(config: ModelConfig) -> Family:
    """The published family whose architecture ``config`` has."""
    return next(family for family in FAMILIES if family.describes(config))
