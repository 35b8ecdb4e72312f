"""The spans of the images of one request: from their admission, through a worker's steps, to their files.

``generate_content MODEL`` is the operation in the terms of OpenTelemetry's conventions for generative AI. Below it
each image has a span of its own, since the images of a request wait, step and end apart; and below that are its stages.
A step that several images share is in the trace of each, with the size of the batch.
"""

from __future__ import annotations

from typing import Any

from server.errors import ServerError
from server.messages import Job, ModelInfo, Timing
from server.tracing.exemplar import Exemplar
from server.tracing.timed_span import TimedSpan

_OPERATION = "generate_content"
_NAMES = {"text_encode": "encode text", "edit_encode": "encode edit", "vae_decode": "decode"}


class GenerationTrace:
    """The spans of an admitted request.

    Args:
        parent: the span of the HTTP request.
        job: what is to be painted.
        model: paints it.
        now: time of admission.
    """

    def __init__(self, parent: TimedSpan, job: Job, model: ModelInfo, now: float) -> None:
        self._admitted_at = now
        self._span = parent.child(f"{_OPERATION} {model.name}", now, _attributes_of(job, model))
        self._images = [
            self._span.child("image", now, {"star.image.index": index, "star.image.seed": seed})
            for index, seed in enumerate(job.seeds)
        ]
        self._queued_since = dict.fromkeys(range(len(job.seeds)), now)
        self._open = set(self._queued_since)
        self._streamed = False
        self._ended = False

    @property
    def ids(self) -> Exemplar:
        """Ids of the trace, and of the span of the generation."""
        return self._span.ids

    def stream(self) -> None:
        """Note that the images are streamed."""
        self._streamed = True
        self._span.describe({"gen_ai.request.stream": True})

    def started(self, image: int, worker: int, at: float) -> None:
        """Note that an image has a slot."""
        self._images[image].describe({"star.worker": worker})
        if (since := self._queued_since.pop(image, None)) is not None:
            self._images[image].stage("queue", since, at)

    def withdrawn(self, image: int, at: float) -> None:
        """Note that an image has lost its slot to others, and begins anew when it gets another."""
        self._queued_since[image] = at

    def worked(self, image: int, timing: Timing) -> Exemplar:
        """Add a piece of a worker's work on an image, and return the ids of its span."""
        name = _NAMES.get(timing.stage, timing.stage.replace("_", " "))
        attributes: dict[str, Any] = {"star.batch_size": timing.batch}
        if timing.stage == "scale_step":
            name = f"scale {timing.scale}"
            attributes["star.scale"] = timing.scale
        started = timing.ended_at - timing.seconds
        return self._images[image].stage(name, started, timing.ended_at, attributes)

    def checked(self, image: int, started: float, ended: float) -> None:
        """Add the check of an image by the safety hook."""
        self._images[image].stage("safety check", started, ended)

    def encoded(
        self, image: int, started: float, ended: float, *, form: str, size: int, partial: bool
    ) -> None:
        """Add the encoding of an image's file, or of a preview's.

        Args:
            image: index in the job's seeds.
            started, ended: when.
            form: format of the file.
            size: of the file in bytes.
            partial: whether it is a preview.
        """
        if self._ended:
            return
        attributes = {"star.file.format": form, "star.file.size": size, "star.partial": partial}
        self._images[image].stage("encode", started, ended, attributes)
        if self._streamed:
            self._streamed = False  # the first chunk alone counts
            seconds = round(ended - self._admitted_at, 6)
            self._span.describe({"gen_ai.response.time_to_first_chunk": seconds})
        if not partial and image in self._open:
            self._images[image].end(ended)
            self._open.discard(image)

    def conclude(self, input_tokens: int, output_tokens: int, error: ServerError | None) -> None:
        """Note the outcome; the spans end when the answer has been made of it."""
        self._span.describe(
            {
                "gen_ai.usage.input_tokens": input_tokens,
                "gen_ai.usage.output_tokens": output_tokens,
            }
        )
        if error is not None:
            self.fail(error.code)

    def fail(self, code: str) -> None:
        """Mark the generation, and the images that are not done, as failed."""
        for span in (self._span, *(self._images[image] for image in self._open)):
            span.fail(code)

    def end(self, now: float) -> None:
        """End all spans, once."""
        if self._ended:
            return
        self._ended = True
        for image, since in self._queued_since.items():
            self._images[image].stage("queue", since, now)
        for image in sorted(self._open):
            self._images[image].end(now)
        self._span.end(now)


def _attributes_of(job: Job, model: ModelInfo) -> dict[str, Any]:
    """Return what is known when a request is admitted; never a prompt."""
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATION,
        "gen_ai.provider.name": "star-server",
        "gen_ai.request.model": model.name,
        "gen_ai.response.model": model.name,
        "gen_ai.output.type": "image",
        "gen_ai.request.seed": job.seeds[0],
        "gen_ai.request.top_k": job.sampling.top_k,
        "gen_ai.request.top_p": job.sampling.top_p,
        "star.guidance_scale": job.sampling.guidance_scale,
        "star.image.size": model.shapes[job.shape].size,
        "star.edit": job.edit is not None,
    }
    if job.tenant:
        attributes["star.tenant"] = job.tenant
    if len(job.seeds) > 1:
        attributes["gen_ai.request.choice.count"] = len(job.seeds)
    return attributes
