"""What the event loop and the worker process say to each other: frozen, picklable, free of torch.

All times are seconds on ``time.monotonic()``, which the processes of one machine share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

FailureCode = Literal["deadline_exceeded", "out_of_memory", "internal_error"]
Stage = Literal["text_encode", "scale_step", "vae_decode"]
LoadPhase = Literal["starting", "loading", "capturing", "warming"]


@dataclass(frozen=True, slots=True)
class Pixels:
    """An RGB image: ``height * width * 3`` bytes, row by row."""

    width: int
    height: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Sampling:
    """How images are sampled.

    Args:
        guidance_scale: weight of the prompt against the negative prompt.
        top_k: tokens kept before drawing; 0 keeps all.
        top_p: probability mass kept before drawing, in ``(0, 1]``.
        smooth_scales: last scales that are painted with the mean of the tokens kept, instead of one drawn.
    """

    guidance_scale: float
    top_k: int
    top_p: float
    smooth_scales: int = 0

    def changed(self, given: Mapping[str, Any]) -> Sampling:
        """This, with what ``given`` has of it in its place; None is not given, and other entries do not matter."""
        values = asdict(self)
        return Sampling(**{k: v if given.get(k) is None else given[k] for k, v in values.items()})


@dataclass(frozen=True, slots=True)
class ImageEdit:
    """An image that a job starts from, and what is to become of it.

    Args:
        image: of the model's size.
        mask: a byte for each pixel of it, row by row, other than 0 where it is to be painted; None is everywhere.
        keep_scales: coarse scales that are the image's own inside the mask too.
        erase: forget what is inside the mask.
        focus: paint a small masked part at full resolution, in a window around it.
        feather: fade into the painted part over a few pixels.
    """

    image: Pixels
    mask: bytes | None
    keep_scales: int
    erase: bool
    focus: bool
    feather: bool


@dataclass(frozen=True, slots=True)
class Job:
    """One request as the worker sees it; it becomes one sequence for each seed.

    Args:
        id: unique among the requests of this server process.
        prompt: what to draw.
        negative_prompt: what the unguided row is conditioned on; empty for none.
        seeds: one for each image, each in ``0 ... 2**32 - 1``.
        sampling: of all images.
        partial_images: previews wanted of each image while it is painted.
        deadline: when the request is of no more use to its caller.
        edit: the image to start from; None paints from nothing.
    """

    id: str
    prompt: str
    negative_prompt: str
    seeds: tuple[int, ...]
    sampling: Sampling
    partial_images: int
    deadline: float
    edit: ImageEdit | None = None


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker process is started with; see :class:`server.settings.Settings` for most of it.

    Args:
        index: of this worker, from 0.
        workers: how many there are; 0 when their number is found out.
    """

    model: str
    device: str
    dtype: str
    mode: str
    threads: int
    cache_dir: Path | None
    offline: bool
    allow_unsafe_pickle: bool
    attention: str
    cuda_graphs: bool
    compile: bool
    slots: int
    max_batch: int
    catch_up: float
    patience: float
    max_step: float
    text_cache: int
    log_level: str
    log_format: str
    index: int = 0
    workers: int = 1


# To the worker.


@dataclass(frozen=True, slots=True)
class Paint:
    """Paint this image of the job. It is sent to a worker that has a slot free for it."""

    job: Job
    image: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for this job any more: its images leave before the next step."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Stop after the running step."""


ToWorker = Paint | Cancel | Shutdown


# From the worker.


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The loaded model and how it runs; what the event-loop side needs to validate, answer and estimate.

    Args:
        name: public name.
        image_size: side of the square image in pixels.
        patch_nums: side of each scale's token map.
        vocab_size: vectors of the codebook.
        num_classes: of a class-conditional model, whose prompts are names of classes; 0 for a text-conditional one.
        parameters: parameters of the model.
        sampling: what a request gets that does not say otherwise.
        slots: images that can be painted at a time.
        device: ``cpu`` or ``cuda``.
        dtype: of the weights.
        mode: ``deterministic`` or ``fast``.
        seconds_per_image: measured by the warm-up, one image alone.
        description: what it draws, in sentences.
        examples: prompts that it draws well.
    """

    name: str
    image_size: int
    patch_nums: tuple[int, ...]
    vocab_size: int
    parameters: int
    sampling: Sampling
    slots: int
    device: str
    dtype: str
    mode: str
    seconds_per_image: float
    description: str = ""
    examples: tuple[str, ...] = ()
    num_classes: int = 0


@dataclass(frozen=True, slots=True)
class Loading:
    """The worker has come to this phase of its start."""

    phase: LoadPhase


@dataclass(frozen=True, slots=True)
class Devices:
    """For how many workers the machine has devices: one for each visible GPU, or one on the CPU."""

    count: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is warm; jobs may come."""

    model: ModelInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model cannot be loaded, for a reason that the user can mend. The worker exits."""

    message: str


@dataclass(frozen=True, slots=True)
class Started:
    """The worker has begun an image: from here on, it and the image share their fate."""

    job_id: str
    image: int
    at: float


@dataclass(frozen=True, slots=True)
class TextRead:
    """A job's texts have been encoded. It is told for each image, and is the same for all.

    Args:
        tokens: that the text encoder read of the prompt and the negative prompt.
        warnings: sentences for the caller, such as what of the prompt did not fit.
    """

    job_id: str
    tokens: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Freed:
    """An image has all its scales, and its slot can be given to another; its pixels follow."""

    job_id: str
    image: int


@dataclass(frozen=True, slots=True)
class Preview:
    """An unfinished image of a job, decoded from what is painted so far.

    Args:
        image: index in the job's seeds.
        index: how many previews of this image came before.
    """

    job_id: str
    image: int
    index: int
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Painted:
    """A finished image of a job. The job is done when all its images are."""

    job_id: str
    image: int
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Failed:
    """A job ended without all its images; nothing more comes of it."""

    job_id: str
    code: FailureCode
    message: str


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one piece of work took.

    Args:
        seconds: its duration.
        batch: prompts or images in it.
        scale: index of the scale, for ``scale_step``.
    """

    stage: Stage
    seconds: float
    batch: int
    scale: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The worker is alive.

    Args:
        at: when it was sent.
        turned_at: when the main loop last came round; old while a step is long, or hangs.
        idle: the main loop waits for a message.
        slots_in_use: slots that the engine has given out.
        memory_allocated: bytes of device memory in tensors; 0 on a CPU.
        memory_reserved: bytes of device memory held by the process; 0 on a CPU.
    """

    at: float
    turned_at: float
    idle: bool
    slots_in_use: int = 0
    memory_allocated: int = 0
    memory_reserved: int = 0


@dataclass(frozen=True, slots=True)
class Exited:
    """The worker is gone; put in by the parent, always the last message of a worker."""

    reason: str


Work = Started | TextRead | Freed | Preview | Painted | Failed | Timing
"""What a worker says of its jobs."""

FromWorker = Loading | Devices | Ready | LoadFailed | Work | Heartbeat | Exited
