"""How papers draw the images of a benchmark, and the figures that they report. Each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BENCHMARKS = ("mjhq", "coco", "geneval", "imagenet", "own")
"""MJHQ-30K; captions of COCO's validation set of 2014; GenEval's 553 prompts; ImageNet's 1,000 classes; any prompts."""


@dataclass(frozen=True)
class Protocol:
    """One way of drawing a benchmark.

    Attributes:
        per_prompt: images drawn for each prompt.
        seed: of the first image; number ``i`` of all images has the seed ``seed + i``. The published code draws a
            whole batch from one generator instead, so the same seed does not give the same images.
        sampling: parameters that differ from the model's own.
        crop: how references become square: at a place drawn at random, or in the centre.
        clip: the CLIP model of the CLIP score, by its name on the hub.
        source: where this is described.
    """

    per_prompt: int = 1
    seed: int = 0
    sampling: Mapping[str, float] = field(default_factory=dict)
    crop: str = "centre"
    clip: str = "openai/clip-vit-large-patch14"
    source: str = "the model's own sampling parameters"


_STAR = "STAR's evaluation scripts (Davinci-XLab/STAR-T2I)"
_SWITTI = "Switti's calculate_metrics.py (yandex-research/switti)"
_STAR_SAMPLING = {"guidance_scale": 4.0, "top_k": 600, "top_p": 0.8}
_SWITTI_CLIP = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
_SWITTI_SAMPLING = {"guidance_scale": 6.0, "top_k": 400, "top_p": 0.95, "mixed_scales": 0}

_PROTOCOLS: dict[tuple[str, str], Protocol] = {
    ("mjhq", "star"): Protocol(seed=4, sampling=_STAR_SAMPLING, crop="random", source=_STAR),
    ("coco", "star"): Protocol(
        seed=4, sampling={"guidance_scale": 4.0, "top_k": 900, "top_p": 0.95}, source=_STAR
    ),
    ("geneval", "star"): Protocol(
        per_prompt=4,
        seed=42,
        sampling=_STAR_SAMPLING,
        source=_STAR,
    ),
    ("mjhq", "switti"): Protocol(sampling=_SWITTI_SAMPLING, clip=_SWITTI_CLIP, source=_SWITTI),
    ("coco", "switti"): Protocol(sampling=_SWITTI_SAMPLING, clip=_SWITTI_CLIP, source=_SWITTI),
    ("imagenet", "var"): Protocol(
        per_prompt=50,
        sampling={"guidance_scale": 1.5, "top_k": 900, "top_p": 0.96},
        source="VAR's README (FoundationVision/VAR)",
    ),
    ("imagenet", "cca"): Protocol(
        per_prompt=50,
        seed=1,
        sampling={"guidance_scale": 0.0, "top_k": 900, "top_p": 0.96},
        source="CCA's VAR_sample.py (thu-ml/CCA)",
    ),
}
_DEFAULTS = {"geneval": Protocol(per_prompt=4), "imagenet": Protocol(per_prompt=50)}


def protocol_of(benchmark: str, model: str) -> Protocol:
    """The protocol of a benchmark for a model, by the model's name; a general one if its paper has none."""
    family = "cca" if model.endswith("-cca") else model.partition("-")[0]
    if model == "star-mini":  # ours, in no paper
        family = ""
    return _PROTOCOLS.get((benchmark, family)) or _DEFAULTS.get(benchmark) or Protocol()


@dataclass(frozen=True)
class Published:
    """Figures of a paper for a model on a benchmark; None where it has none."""

    source: str
    fid: float | None = None
    clip_score: float | None = None
    image_reward: float | None = None
    caution: str = ""


_STAR_CAUTION = (
    "drawn in batches whose cross-attention read the first prompt for all images, perhaps with the causal sampler and "
    "top_k 4096, whose weights were not released; neither is reproduced here"
)
_OPENAI = "by OpenAI's evaluator and statistics, which differ from a folder of references"

PUBLISHED: dict[tuple[str, str], Published] = {
    ("mjhq", "star-512"): Published(
        "arXiv 2406.10797", fid=4.73, clip_score=0.291, image_reward=0.87, caution=_STAR_CAUTION
    ),
    **{
        ("imagenet", f"var-d{depth}-cca"): Published("arXiv 2410.09347", fid=fid, caution=_OPENAI)
        for depth, fid in ((16, 4.03), (20, 3.02), (24, 2.63), (30, 2.54))
    },
}
"""By benchmark and model. GenEval's score comes from its own evaluator, so its figures are not here."""
