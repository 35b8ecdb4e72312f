"""From a validated request to a job: the checks that need the loaded model, and the values it leaves open."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass

from server import __version__
from server.api.class_names import check_class
from server.api.schemas import GenerateRequest
from server.errors import InvalidRequest
from server.images.encode import ImageFormat
from server.messages import Job, ModelInfo
from server.settings import Settings

SEEDS = 2**32


@dataclass(frozen=True)
class Plan:
    """A job and how its images are to be delivered.

    Args:
        job: for the worker.
        model: that paints it.
        image_format: of each image.
        quality: of WebP and JPEG, 1 to 100; None is the default.
    """

    job: Job
    model: ModelInfo
    image_format: ImageFormat
    quality: int | None

    @property
    def size(self) -> str:
        """Of each image, as the API writes it."""
        return _size(self.model)

    @property
    def image_tokens(self) -> int:
        """Tokens of one image, all scales together."""
        return sum(side * side for side in self.model.patch_nums)

    @property
    def edited_tokens(self) -> int:
        """Tokens of the image that is edited; 0 if none is."""
        return self.image_tokens if self.job.edit is not None else 0

    @property
    def parameters(self) -> dict[str, float | int | str]:
        """What the images were sampled with, for answers and for the images' own text."""
        negative = {"negative_prompt": self.job.negative_prompt} if self.job.negative_prompt else {}
        kept = {"keep_scales": self.job.edit.keep_scales} if self.job.edit is not None else {}
        return {
            **asdict(self.job.sampling),
            **negative,
            **kept,
        }

    def text(self, image: int) -> dict[str, str]:
        """The text chunks of one image's PNG file."""
        return {
            "prompt": self.job.prompt,
            "seed": str(self.job.seeds[image]),
            "model": self.model.name,
            "parameters": json.dumps(self.parameters, ensure_ascii=False),
            "Software": f"star-server {__version__}",
        }


def make_plan(
    request: GenerateRequest, model: ModelInfo, settings: Settings, *, job_id: str, now: float
) -> Plan:
    """Check a request against the model and the settings, and fill in what it leaves open.

    Args:
        request: with valid types and ranges.
        model: the loaded one.
        settings: of the server.
        job_id: unique.
        now: the time that the deadline counts from.

    Raises:
        InvalidRequest: the model or this server cannot do what is asked; ``param`` names the field.
    """
    if request.size is not None and request.size != _size(model):
        raise InvalidRequest(
            f'size must be "{_size(model)}", what {model.name} paints; got {json.dumps(request.size)}.',
            param="size",
        )
    timeout = request.timeout_s if request.timeout_s is not None else settings.default_timeout_s
    if timeout > settings.max_timeout_s:
        raise InvalidRequest(
            f"timeout_s must be at most {settings.max_timeout_s:g} on this server; got {timeout:g}.",
            param="timeout_s",
        )
    if request.partial_images and not request.stream:
        raise InvalidRequest(
            'partial_images needs "stream": true; without it there is nowhere to send them.',
            param="partial_images",
        )
    if request.partial_images and not settings.previews:
        raise InvalidRequest(
            "partial_images must be 0: this server sends no previews.", param="partial_images"
        )
    image_format: ImageFormat = request.format or "png"
    if request.quality is not None and image_format == "png":
        raise InvalidRequest(
            "quality is for webp and jpeg; leave it out for png, which is lossless.",
            param="quality",
        )
    _check_classes(request, model)
    for name in ("keep_scales", "smooth_scales"):
        count = getattr(request, name)
        if count is not None and count > len(model.patch_nums):
            raise InvalidRequest(
                f"{name} must be 0 to {len(model.patch_nums)}, the scales of {model.name}; got {count}.",
                param=name,
            )
    sampling = model.sampling.changed(request.sampling)
    if request.negative_prompt and not sampling.guidance_scale:
        default = (
            f", which is the default of {model.name}" if request.guidance_scale is None else ""
        )
        raise InvalidRequest(
            f"negative_prompt needs guidance to lead away from it, and guidance_scale is 0{default}; "
            "give guidance_scale, 2 for example.",
            param="negative_prompt",
        )
    seed = request.seed if request.seed is not None else secrets.randbelow(SEEDS)
    job = Job(
        id=job_id,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or "",
        seeds=tuple((seed + i) % SEEDS for i in range(request.n)),
        sampling=sampling,
        partial_images=request.partial_images,
        deadline=now + timeout,
    )
    return Plan(job, model, image_format, request.quality)


def _check_classes(request: GenerateRequest, model: ModelInfo) -> None:
    """A class-conditional model paints what the prompt, or ``class_id``, is the class of; any other has no classes."""
    given = request.class_id is not None
    if given and not model.num_classes:
        raise InvalidRequest(
            f"class_id is for class-conditional models; {model.name} needs a prompt.",
            param="class_id",
        )
    if given and request.prompt != str(request.class_id):
        raise InvalidRequest(
            "class_id stands in place of the prompt; leave one of them out.", param="class_id"
        )
    if model.num_classes:
        check_class(request.prompt, model.num_classes, param="class_id" if given else "prompt")
        if request.negative_prompt:
            check_class(request.negative_prompt, model.num_classes, param="negative_prompt")


def _size(model: ModelInfo) -> str:
    return f"{model.image_size}x{model.image_size}"
