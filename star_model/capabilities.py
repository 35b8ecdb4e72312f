"""What a model can be asked for, derived from what decides it: its configuration and its networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from star_model.guidance import GuidanceKind, has_guidance
from star_model.sampling import MOST_DRAFT, Sampling
from star_model.scales import Size


class Capabilities(BaseModel):
    """What requests for a model may have."""

    model_config = ConfigDict(frozen=True)

    prompt: Literal["text", "class"] = Field(
        description="What a prompt is: `text`, or `class`, the name or number of an ImageNet class."
    )
    vocabulary: bool = Field(
        description="Whether the model knows a list of things only, by which prompts are read."
    )
    editing: bool = Field(
        description="Whether it edits images: in-painting, out-painting, variations."
    )
    guidance: GuidanceKind = Field(
        description="How strongly scales are guided: `rising`, from 0 at the first scale to `guidance_scale` at the "
        "last, or `constant`, by `guidance_scale` at each, where 1 is none."
    )
    negative_prompt: bool = Field(
        description="Whether a request may have a negative prompt as it is. Where not, the model is not guided by "
        "default, and a `guidance_scale` has to go with it."
    )
    aspect_ratios: list[str] = Field(
        description="Width to height of each of its sizes, in their order, such as `3:2`."
    )
    max_draft: int = Field(description="Most scales that `draft` may leave out.")


def capabilities(
    *,
    sampling: Sampling,
    guidance: GuidanceKind,
    num_scales: int,
    sizes: Sequence[Size],
    num_classes: int,
    has_vocabulary: bool,
    can_encode: bool,
) -> Capabilities:
    """Derive what a model can be asked for.

    Args:
        sampling: its defaults.
        guidance: see :mod:`star_model.guidance`.
        num_scales: number of its scales.
        sizes: heights and widths of its images, in pixels.
        num_classes: 0 for a text-conditional model.
        has_vocabulary: whether prompts are read by a vocabulary.
        can_encode: whether its image tokenizer has an encoder, which editing needs.
    """
    return Capabilities(
        prompt="class" if num_classes else "text",
        vocabulary=has_vocabulary,
        editing=can_encode,
        guidance=guidance,
        negative_prompt=has_guidance(sampling, guidance, num_scales),
        aspect_ratios=[_ratio(size) for size in sizes],
        max_draft=min(MOST_DRAFT, num_scales - 1),
    )


def _ratio(size: Size) -> str:
    height, width = size
    divisor = math.gcd(height, width)
    return f"{width // divisor}:{height // divisor}"
