"""Sampling parameters and their ranges, declared once: the configuration, the API and the command line use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SEEDS = 2**32
"""Number of different seeds; a seed is 0 to ``SEEDS - 1``."""

MOST_DRAFT = 2
"""Most scales that a draft leaves out."""

Seed = Annotated[int, Field(ge=0, le=SEEDS - 1)]

_LIST = r"^(\d{1,3}(\.\d{1,6})?(,\d{1,3}(\.\d{1,6})?){0,99})?$"
"""Up to a hundred numbers with commas between them."""


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(",")) if text else ()


def _within(lowest: float, highest: float) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not all(lowest <= number <= highest for number in _numbers(text)):
            raise ValueError(f"must be numbers from {lowest} to {highest}")
        return text

    return check


GuidanceByScale = Annotated[str, Field(pattern=_LIST), AfterValidator(_within(0, 100))]
TemperatureByScale = Annotated[str, Field(pattern=_LIST), AfterValidator(_within(0.01, 100))]
"""Numbers for each scale as a text, such as ``1,1,3.5``, which a form and a command line can give too."""


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
        "which it rises linearly from 0 at the first; 0 turns guidance off. Models of the Infinity family are guided "
        "by it at every scale alike, and 1 turns it off too.",
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
        le=MOST_DRAFT,
        description="Number of scales, counted from the finest, to leave out: a quick draft of the image that the same "
        "seed gives without it, with less detail; 0 is none.",
    )
    temperature: float = Field(
        1.0,
        ge=0.01,
        le=100,
        description="By how much to divide the logits: below 1 keeps to the likeliest tokens, above 1 varies more. The "
        "scales that unguided_scales counts have a temperature of their own.",
    )
    guidance_by_scale: GuidanceByScale = Field(
        "",
        description='guidance_scale of each scale, coarsest first, such as "1,1,3,4"; the last number is for all '
        "further scales. Empty is guidance_scale for all.",
    )
    temperature_by_scale: TemperatureByScale = Field(
        "",
        description="temperature of each scale, in the same form; empty is temperature for all.",
    )

    def guidance_scales(self, num_scales: int) -> tuple[float, ...]:
        """``guidance_scale`` of each scale."""
        return _for_each(_numbers(self.guidance_by_scale), self.guidance_scale, num_scales)

    def temperatures(self, num_scales: int) -> tuple[float, ...]:
        """What the logits of each scale are divided by."""
        guided = num_scales - self.unguided_scales
        given = _for_each(_numbers(self.temperature_by_scale), self.temperature, num_scales)
        return tuple(t if k < guided else self.unguided_temperature for k, t in enumerate(given))

    def changed(self, given: Mapping[str, Any]) -> Sampling:
        """Replace the parameters that ``given`` has under their names, except where its value is None.

        Other entries of ``given`` are ignored.

        Raises:
            ValueError: for a value of another type or out of range.
        """
        own = self.model_dump()
        return Sampling(**{k: v if given.get(k) is None else given[k] for k, v in own.items()})


def _for_each(given: tuple[float, ...], otherwise: float, count: int) -> tuple[float, ...]:
    """The first ``count`` of the ``given`` numbers, the last of which is repeated; ``otherwise`` if there are none."""
    numbers = given or (otherwise,)
    return (*numbers, *[numbers[-1]] * (count - len(numbers)))[:count]
