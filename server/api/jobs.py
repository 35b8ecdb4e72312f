"""From a validated request to a job: the checks that need the loaded model, and defaults for what is left out."""

from __future__ import annotations

import json
import math
import secrets

from server.api.class_names import check_class
from server.api.schemas import GenerateRequest
from server.errors import InvalidRequest
from server.messages import Job, ModelInfo
from server.settings import Settings
from star_model.guidance import has_guidance
from star_model.sampling import SEEDS

_SCALES = ("keep_scales", "smooth_scales", "unguided_scales", "guidance_from", "mixed_scales")
"""Fields that count scales of the model."""
_SAME_RATIO = 1.05
"""How many times longer, relative to the other side, an image may be than it was asked for without a warning."""


def make_job(request: GenerateRequest, model: ModelInfo, settings: Settings, *, job_id: str) -> Job:
    """Check a request against the model and the settings, and fill in what it leaves out.

    Args:
        request: with valid types and ranges.
        model: the loaded one.
        settings: of the server.
        job_id: unique.

    Raises:
        InvalidRequest: the model or this server cannot do what is asked; ``param`` names the field.
    """
    _check_delivery(request, model, settings)
    _check_classes(request, model)
    for name in _SCALES:
        count = getattr(request, name)
        if count is not None and count > model.num_scales:
            raise InvalidRequest(
                f"{name} must be 0 to {model.num_scales}, the scales of {model.name}; got {count}.",
                param=name,
            )
    sampling = model.sampling.changed(request.sampling)
    if sampling.draft >= model.num_scales:
        raise InvalidRequest(
            f"draft must be less than {model.num_scales}, the scales of {model.name}; got {sampling.draft}.",
            param="draft",
        )
    guided = has_guidance(sampling, model.guidance, model.num_scales)
    if request.negative_prompt and not guided:
        default = f", the default of {model.name}" if request.guidance_scale is None else ""
        raise InvalidRequest(
            f"negative_prompt needs guidance, and guidance_scale is {sampling.guidance_scale:g}{default}; "
            "set guidance_scale, to 2 for example.",
            param="negative_prompt",
        )
    seed = request.seed if request.seed is not None else secrets.randbelow(SEEDS)
    return Job(
        id=job_id,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or "",
        seeds=tuple((seed + i) % SEEDS for i in range(request.n)),
        sampling=sampling,
        partial_images=request.partial_images,
        shape=shape_of(request, model) or 0,
    )


def shape_of(request: GenerateRequest, model: ModelInfo) -> int | None:
    """Return the number of the shape that a request names, by ``size`` or ``aspect_ratio``; None if by neither.

    Raises:
        InvalidRequest: the model does not make such images, or both are given.
    """
    if request.size is not None and request.aspect_ratio is not None:
        raise InvalidRequest(
            "aspect_ratio chooses the size; leave one of them out.", param="aspect_ratio"
        )
    if request.aspect_ratio is not None:
        return nearest_shape(model, 1 / _ratio(request.aspect_ratio))
    if request.size is None:
        return None
    if request.size not in model.sizes:
        sizes = " or ".join(json.dumps(size) for size in model.sizes)
        noun = "the size" if len(model.sizes) == 1 else "the sizes"
        raise InvalidRequest(
            f"size must be {sizes}, {noun} of {model.name}; got {json.dumps(request.size)}.",
            param="size",
        )
    return model.sizes.index(request.size)


def shape_notes(request: GenerateRequest, model: ModelInfo) -> list[str]:
    """Return a warning if the images are of another ratio than ``aspect_ratio`` asks for."""
    shape = shape_of(request, model)
    if request.aspect_ratio is None or shape is None:
        return []
    size = model.shapes[shape]
    off = abs(math.log(size.width / size.height / _ratio(request.aspect_ratio)))
    if off <= math.log(_SAME_RATIO):
        return []
    return [
        f"The images are {size.size}: {model.name} has no size nearer to {request.aspect_ratio}."
    ]


def _ratio(text: str) -> float:
    """Return the width, divided by the height, of a ratio such as ``16:9``."""
    width, height = map(float, text.split(":"))
    return width / height


def nearest_shape(model: ModelInfo, ratio: float) -> int:
    """Return the number of the shape whose height, divided by its width, is nearest to ``ratio`` in proportion."""
    distances = [abs(math.log(shape.height / shape.width / ratio)) for shape in model.shapes]
    return distances.index(min(distances))


def timeout_of(request: GenerateRequest, settings: Settings) -> float:
    """Return the seconds until the request fails if it is not done.

    Raises:
        InvalidRequest: it asks for more than this server allows.
    """
    timeout = request.timeout_s if request.timeout_s is not None else settings.default_timeout_s
    if timeout > settings.max_timeout_s:
        raise InvalidRequest(
            f"timeout_s must be at most {settings.max_timeout_s:g} on this server; got {timeout:g}.",
            param="timeout_s",
        )
    return timeout


def _check_delivery(request: GenerateRequest, model: ModelInfo, settings: Settings) -> None:
    """Check previews and file quality."""
    if request.partial_images and not request.stream:
        raise InvalidRequest(
            'partial_images needs "stream": true; other answers have no place for them.',
            param="partial_images",
        )
    if request.partial_images and not settings.previews:
        raise InvalidRequest(
            "partial_images must be 0: this server sends no previews.", param="partial_images"
        )
    if request.partial_images and settings.previews_unseen:
        raise InvalidRequest(
            "partial_images must be 0: this server checks images before it sends them, finished ones alone.",
            param="partial_images",
        )
    if request.metadata == "none" and settings.metadata != "none":
        raise InvalidRequest(
            'metadata must be "full" or "provenance": this server marks all its images as generated.',
            param="metadata",
        )
    if request.quality is not None and request.image_format == "png":
        raise InvalidRequest(
            "quality is for webp and jpeg; leave it out for png, which is lossless.",
            param="quality",
        )


def _check_classes(request: GenerateRequest, model: ModelInfo) -> None:
    """Check that a class-conditional model gets a class, as ``class_id`` or prompt, and other models get none."""
    given = request.class_id is not None
    if given and not model.num_classes:
        raise InvalidRequest(
            f"class_id is for class-conditional models; {model.name} needs a prompt.",
            param="class_id",
        )
    if given and request.prompt != str(request.class_id):
        raise InvalidRequest(
            "class_id replaces the prompt; leave one of them out.", param="class_id"
        )
    if model.num_classes:
        check_class(request.prompt, model.num_classes, param="class_id" if given else "prompt")
        if request.negative_prompt:
            check_class(request.negative_prompt, model.num_classes, param="negative_prompt")
