"""Sampling parameters and their ranges, declared once: the configuration, the API and the command line use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

SEEDS = 2**32
"""Number of different seeds; a seed is 0 to ``SEEDS - 1``."""

Seed = Annotated[int, Field(ge=0, le=SEEDS - 1)]


class Sampling(BaseModel):
    """Sampling parameters of one image, besides its seed.

    The types are strict: a string is not a number. Building one raises ``pydantic.ValidationError``, which is a
    ``ValueError``, for a value of another type or out of range.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    guidance_scale: float = Field(
        4.0,
        ge=0,
        le=100,
        description="How closely to follow the prompt: the strength of classifier-free guidance at the last scale, to "
        "which it rises linearly from 0 at the first; 0 turns guidance off.",
    )
    top_k: int = Field(
        600,
        ge=0,
        le=1_000_000,
        description="Draw only from this many of the most likely tokens; 0 draws from all, 1 always takes the most "
        "likely.",
    )
    top_p: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Draw only from the most likely tokens that together reach this probability; 1 draws from all, 0 "
        "always takes the most likely.",
    )
    smooth_scales: int = Field(
        0,
        ge=0,
        description="Number of scales, counted from the finest, that use the mean of the candidate tokens instead of "
        "one drawn token, which gives smoother surfaces and fewer surprises; 0 is none, more than the model has is "
        "all.",
    )

    unguided_scales: int = Field(
        0,
        ge=0,
        description="Number of scales, counted from the finest, that run without guidance, which halves their work and "
        "changes the image; 0 is none, more than the model has is all.",
    )

    unguided_temperature: float = Field(
        1.0,
        ge=0.01,
        le=100,
        description="By how much to divide the logits of the scales that unguided_scales counts: below 1 keeps to the "
        "likeliest tokens, above 1 varies more.",
    )
    guidance_from: int = Field(
        0,
        ge=0,
        description="Number of scales, counted from the coarsest, before guidance begins; 0 is none, more than the "
        "model has is all.",
    )
    mixed_scales: int = Field(
        0,
        ge=0,
        description="Number of scales, counted from the finest, that use a random mixture of all tokens instead of one "
        "drawn token, which gives smoother surfaces; those that unguided_scales counts draw all the same. 0 is none, "
        "more than the model has is all.",
    )

    draft: int = Field(
        0,
        ge=0,
        le=2,
        description="Number of scales, counted from the finest, to leave out: a quick draft of the image that the same "
        "seed gives without it, with less detail; 0 is none.",
    )

    def changed(self, given: Mapping[str, Any]) -> Sampling:
        """Replace the parameters that ``given`` has under their names, except where its value is None.

        Other entries of ``given`` are ignored.

        Raises:
            ValueError: for a value of another type or out of range.
        """
        own = self.model_dump()
        return Sampling(**{k: v if given.get(k) is None else given[k] for k, v in own.items()})
