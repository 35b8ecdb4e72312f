"""Messages between the event loop and a worker process: frozen, picklable, free of torch.

All times are seconds on ``time.monotonic()``, which the processes of one machine share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from star_model.gallery import GalleryPicture
from star_model.guidance import GuidanceKind
from star_model.reading import Reading
from star_model.sampling import Sampling
from star_model.vocabulary import Vocabulary

FailureCode = Literal["out_of_memory", "internal_error", "invalid_request_error"]
Stage = Literal["text_encode", "edit_encode", "scale_step", "preview_decode", "vae_decode"]
LoadPhase = Literal["starting", "loading", "capturing", "warming"]

INTERACTIVE, BATCH = 0, 1
"""Priority classes of jobs. Images of a lower class never delay those of a higher one, which has the lower number."""


class Key(NamedTuple):
    """Identifies one image of one job.

    Attributes:
        job_id: of the job.
        image: index in the job's seeds.
    """

    job_id: str
    image: int


@dataclass(frozen=True, slots=True)
class Pixels:
    """An RGB image: ``height * width * 3`` bytes, row by row."""

    width: int
    height: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ImageEdit:
    """The image that an edit starts from, and how it is edited.

    Args:
        image: has one of the model's image sizes.
        mask: one byte per pixel, row by row; non-zero pixels are painted. None paints everywhere.
        keep_scales: coarse scales taken from the image inside the mask too.
        erase: discard the image's content inside the mask.
        focus: paint a small masked region at full resolution, in a window around it.
        feather: blend into the painted region over a few pixels.
        around: name of the colour around the painted region, "" if it has none.
    """

    image: Pixels
    mask: bytes | None
    keep_scales: int
    erase: bool
    focus: bool
    feather: bool
    around: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One request as the worker sees it; each seed becomes one sequence in the engine.

    Args:
        id: unique among the requests of this server process.
        prompt: describes the images.
        negative_prompt: what guidance leads away from; empty for none.
        seeds: one per image, each in ``0 ... 2**32 - 1``.
        sampling: parameters of all images.
        partial_images: previews wanted of each image.
        edit: the image to start from; None generates from nothing.
        shape: number of the images' shape among those of the model.
        tenant: whose it is; tenants share evenly within a class. Empty for all that is nobody's.
        priority: its class, ``INTERACTIVE`` or ``BATCH``.
        trace_id: of the trace that records the request; empty if none does.
        literal: the prompt is encoded as it stands, however the model would read it.
    """

    id: str
    prompt: str
    negative_prompt: str
    seeds: tuple[int, ...]
    sampling: Sampling
    partial_images: int = 0
    edit: ImageEdit | None = None
    shape: int = 0
    tenant: str = ""
    priority: int = INTERACTIVE
    trace_id: str = ""
    literal: bool = False

    @property
    def parameters(self) -> dict[str, float | int | str]:
        """Parameters that the images are sampled with, as answers and image files state them."""
        parameters: dict[str, float | int | str] = self.sampling.model_dump()
        if self.negative_prompt:
            parameters["negative_prompt"] = self.negative_prompt
        if self.edit is not None:
            parameters["keep_scales"] = self.edit.keep_scales
        return parameters


# To the worker.


@dataclass(frozen=True, slots=True)
class Accept:
    """Hands a job to the worker, once and before any of its images."""

    job: Job


@dataclass(frozen=True, slots=True)
class Paint:
    """Asks for one image of an accepted job. It is sent when the worker has a free slot for it."""

    job_id: str
    image: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Asks for an image back, whose slot is wanted: the worker forgets what it has done for it.

    It answers :class:`Withdrawn`, unless the image is finished or its job is over.
    """

    job_id: str
    image: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ends a job, finished or not: the worker forgets it, and drops its images before the next step."""

    job_id: str


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """Asks how the model reads a prompt, without painting anything.

    Args:
        number: of the question, for its answer.
        prompt: as a request has it.
    """

    number: int
    prompt: str


@dataclass(frozen=True, slots=True)
class LogFrom:
    """Sets the lowest level that the worker logs: ``debug``, ``info``, ``warning`` or ``error``."""

    level: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Stops the worker after the running step."""


ToWorker = Accept | Paint | Withdraw | Cancel | ReadPrompt | LogFrom | Shutdown


# From the worker.


@dataclass(frozen=True, slots=True)
class ImageShape:
    """One of the shapes of images that a model makes.

    Args:
        width, height: in pixels.
        tokens: of an image, all scales together.
    """

    width: int
    height: int
    tokens: int

    @property
    def size(self) -> str:
        """Width and height, as the API writes them: ``512x512``."""
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The loaded model and how it runs: what validation, answers and estimates need.

    Args:
        name: public name.
        image_size: side of the square image, the first shape, in pixels.
        patch_nums: side of each scale's token map.
        parameters: number of parameters of the transformer and the VQVAE.
        sampling: defaults for parameters that a request leaves out.
        slots: images in flight at most.
        device: ``cpu`` or ``cuda``.
        dtype: of the transformer's weights.
        mode: ``deterministic`` or ``fast``.
        seconds_per_image: measured by the warm-up, one image alone.
        description: sentences about what the model draws.
        examples: prompts that it draws well.
        num_classes: of a class-conditional model, whose prompts are class names; 0 for a text-conditional one.
        vocabulary: of a model that knows few things; None for one that takes any prompt.
        other_shapes: shapes of images that it makes beside the square one.
        guidance: how the strength of guidance follows from ``guidance_scale``; see :mod:`star_model.guidance`.
        gallery: pictures that it painted ahead, to show what it does.
        license: of its weights, as an SPDX identifier; None if their publisher states none, or it is not known.
        can_encode: its image tokenizer has an encoder, which editing needs.
    """

    name: str
    image_size: int
    patch_nums: tuple[int, ...]
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
    vocabulary: Vocabulary | None = None
    other_shapes: tuple[ImageShape, ...] = ()
    guidance: GuidanceKind = "rising"
    gallery: tuple[GalleryPicture, ...] = ()
    license: str | None = None
    can_encode: bool = True

    @property
    def shapes(self) -> tuple[ImageShape, ...]:
        """All shapes of images that it makes; the first is the default."""
        tokens = sum(side * side for side in self.patch_nums)
        return (ImageShape(self.image_size, self.image_size, tokens), *self.other_shapes)

    @property
    def size(self) -> str:
        """Width and height of an image, as the API writes them: ``512x512``; if it makes others, of the default."""
        return self.shapes[0].size

    @property
    def sizes(self) -> tuple[str, ...]:
        """Width and height of the images of each shape."""
        return tuple(shape.size for shape in self.shapes)

    @property
    def num_scales(self) -> int:
        """Number of scales."""
        return len(self.patch_nums)


@dataclass(frozen=True, slots=True)
class Loading:
    """The worker has entered this phase of its start."""

    phase: LoadPhase


@dataclass(frozen=True, slots=True)
class Devices:
    """Number of workers that the machine has devices for: one per visible GPU, or one on the CPU."""

    count: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded and warm; jobs may come."""

    model: ModelInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model cannot be loaded, for a reason that the user can fix. The worker exits."""

    message: str


@dataclass(frozen=True, slots=True)
class Started:
    """The worker has begun an image: if the worker dies from here on, the image is lost with it."""

    job_id: str
    image: int
    at: float


@dataclass(frozen=True, slots=True)
class PromptEncoded:
    """The texts of a job are encoded. Sent for each image of the job, with the same content.

    Args:
        job_id: of the job.
        tokens: tokens of the prompt and the negative prompt together.
        warnings: sentences for the caller, such as which part of the prompt was cut off.
    """

    job_id: str
    tokens: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PromptRead:
    """The answer to :class:`ReadPrompt`."""

    number: int
    reading: Reading


@dataclass(frozen=True, slots=True)
class Freed:
    """All scales of an image are done and its slot is free; its pixels follow."""

    job_id: str
    image: int


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """An image has been given back, and its slot is free. It may be painted from the beginning, by any worker."""

    job_id: str
    image: int


@dataclass(frozen=True, slots=True)
class Preview:
    """An unfinished image, decoded from the scales done so far.

    Args:
        job_id: of the job.
        image: index in the job's seeds.
        index: number of previews of this image before this one.
        pixels: the decoded image.
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
    """A job has failed; no further images of it come."""

    job_id: str
    code: FailureCode
    message: str


@dataclass(frozen=True, slots=True)
class Timing:
    """Duration of one piece of work.

    Args:
        stage: kind of work.
        seconds: its duration.
        batch: prompts or images in it.
        scale: index of the scale, for ``scale_step``.
        ended_at: when it was done.
        images: those of it whose requests are traced.
    """

    stage: Stage
    seconds: float
    batch: int
    scale: int = 0
    ended_at: float = 0.0
    images: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sign of life, sent every second by a thread of the worker from its first line on.

    Args:
        turned_at: start of the main loop's current turn, or of the load; old while a step is long or hangs.
        idle: the main loop is waiting for a message.
        slots_in_use: slots that hold an image.
        memory_allocated: bytes of device memory in tensors; 0 on a CPU.
        memory_reserved: bytes of device memory held by the process; 0 on a CPU.
    """

    turned_at: float
    idle: bool
    slots_in_use: int = 0
    memory_allocated: int = 0
    memory_reserved: int = 0


@dataclass(frozen=True, slots=True)
class Exited:
    """The worker process is gone. The parent adds this as the last message of a worker.

    Args:
        reason: its exit code, or the signal that ended it.
        killed: whether it was a signal.
    """

    reason: str
    killed: bool = False


Work = Started | PromptEncoded | Freed | Withdrawn | Preview | Painted | Failed | Timing
"""Messages about jobs."""

FromWorker = Loading | Devices | Ready | LoadFailed | Work | PromptRead | Heartbeat | Exited
