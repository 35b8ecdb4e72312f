"""The path of every request for images: check it, admit it, deliver its images."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from fastapi import Request
from starlette.responses import Response

from server.api.context import Context
from server.api.deadline import before_deadline
from server.api.disconnect import unless_disconnected
from server.api.edit_prompt import EditPrompt, paints_part
from server.api.image_file import deliver_file
from server.api.jobs import make_job, shape_notes, shape_of, timeout_of
from server.api.schemas import GenerateRequest
from server.api.streaming import EventKind, ImageStream
from server.api.vocabulary import reading_of
from server.api.warnings_header import warnings_header
from server.dispatch.engine_client import EngineClient
from server.dispatch.ticket import Ticket
from server.errors import (
    InvalidRequest,
    RateLimitExceeded,
    SafetyCheckFailed,
    ServerError,
    UnusableImage,
)
from server.http.rate_limit import Caller, caller_of
from server.http.request_log import RequestRecord, record_of
from server.images.canvas import EditOptions, Size, parse_place
from server.images.decode_process import EditSource
from server.images.encode import MEDIA_TYPES
from server.images.uploads import EditFiles
from server.messages import ImageEdit, Job, ModelInfo, Painted
from server.safety.check import Check
from server.safety.gate import SafetyGate
from server.settings import Settings

if TYPE_CHECKING:
    from server.tracing.request_trace import RequestTrace

R = TypeVar("R", bound=Response)


class Delivery:
    """Delivers the images of an admitted request. Stream or await them: until then the request holds its place.

    Args:
        request: the HTTP request.
        context: of the app.
        body: how the images are to be delivered.
        ticket: of the request.
        notes: warnings about the request itself.
    """

    def __init__(
        self,
        request: Request,
        context: Context,
        body: GenerateRequest,
        ticket: Ticket,
        notes: Sequence[str] = (),
    ) -> None:
        self.ticket = ticket
        self._notes = notes
        self._request = request
        self._context = context
        self._body = body

    @property
    def warnings(self) -> list[str]:
        """Warnings about the request, and about how its texts were read; complete once the images are."""
        return [*self._notes, *self.ticket.warnings]

    def stream(self, kind: EventKind = "image_generation") -> ImageStream:
        """Return an answer that streams the images as server-sent events."""
        record = record_of(self._request)
        if self.ticket.trace is not None:
            self.ticket.trace.stream()
        return ImageStream(self._context, self._body, self.ticket, record, kind, self._notes)

    async def files(self) -> list[bytes]:
        """Return the image files in the order of the seeds; each is encoded as soon as its image is finished.

        Raises:
            ServerError: the request failed.
            ClientClosed: the client disconnected first.
        """
        with self.ticket:
            files = await unless_disconnected(self._request, self._encoded())
        record_of(self._request).details |= self.ticket.times
        return files

    def image_answer(self, files: Sequence[bytes]) -> Response:
        """Return an answer that is the first file; its seed is in a header."""
        headers = {"x-seed": str(self.ticket.job.seeds[0])}
        media_type = MEDIA_TYPES[self._body.image_format]
        return self.timed(Response(files[0], media_type=media_type, headers=headers))

    def timed(self, answer: R) -> R:
        """Add the headers with queue and inference seconds and with the warnings to an answer."""
        answer.headers["x-queue-time"] = f"{self.ticket.queue_seconds:.4f}"
        answer.headers["x-inference-time"] = f"{self.ticket.inference_seconds:.4f}"
        answer.headers.update(warnings_header(self.warnings))
        return answer

    async def _encoded(self) -> list[bytes]:
        body, ticket = self._body, self.ticket
        request_id = record_of(self._request).request_id
        files: dict[int, bytes] = {}
        async for event in ticket.events():
            if isinstance(event, Painted):
                file = await deliver_file(self._context, body, ticket, event, request_id)
                files[event.image] = file
        return [files[image] for image in sorted(files)]


async def admit(
    request: Request,
    body: GenerateRequest,
    context: Context,
    engine: EngineClient,
    files: EditFiles | None = None,
    notes: Sequence[str] = (),
) -> Delivery:
    """Check a request, count it against its caller's limits, and queue it.

    Args:
        request: the HTTP request.
        body: what it asks for.
        context: of the app.
        engine: of the model that paints it, held meanwhile.
        files: the image to edit, if any; decoded once all else has been checked.
        notes: warnings about the request, which its answer is to repeat.

    Raises:
        InvalidRequest: the model or this server cannot do what is asked, or a file is unusable.
        RateLimitExceeded: the caller has used up its minute.
        ModerationBlocked: the safety hook refuses it.
        SafetyCheckFailed: it could not be checked.
        QueueFull: there is no room for its images.
        Unavailable: nothing can be served right now.
    """
    model, record = engine.model, record_of(request)
    deadline = engine.clock() + timeout_of(body, context.settings)
    job = _job_of(record, body, model, context.settings)
    options = _edit_options(body, files)
    images, caller = len(job.seeds), caller_of(request.scope)
    record.details |= {"n": images, "seed": job.seeds[0]}
    if context.models.several:
        record.details["model"] = model.name
    if context.settings.log_prompts:
        record.details["prompt"] = job.prompt
    if files is not None:
        pixels = context.settings.max_image_pixels
        source = EditSource(files, options, _canvas_sizes(body, model), model.num_scales, pixels)
        job, added = await _edited(request, body, context, engine, job, source, deadline)
        notes = (*notes, *added)
    if context.safety is not None and context.safety.sees_inputs:
        safety = _check_input(context, context.safety, engine, job, record.request_id, caller)
        checking = before_deadline(deadline - engine.clock(), safety, "it was checked")
        await unless_disconnected(request, checking, "safety check")
    ticket = _submit(context, engine, job, deadline, caller, record.trace)
    return Delivery(request, context, body, ticket, (*notes, *shape_notes(body, model)))


def _job_of(
    record: RequestRecord, body: GenerateRequest, model: ModelInfo, settings: Settings
) -> Job:
    """Return the job of a request, which is its caller's and of the caller's class."""
    job_id = f"{record.request_id}/{secrets.token_hex(4)}"
    job = make_job(body, model, settings, job_id=job_id)
    return replace(job, tenant=record.tenant, priority=record.priority)


async def _check_input(
    context: Context,
    gate: SafetyGate,
    engine: EngineClient,
    job: Job,
    request_id: str,
    caller: Caller,
) -> None:
    """Ask the safety hook about a request; unless the hook fails, a caller pays for one that does not become a job."""
    _check_limits(context, caller, len(job.seeds))
    engine.require_room(job)  # the hook is not asked about what is refused anyway
    shown = job.edit.image if job.edit is not None and gate.sees_uploads else None
    try:
        await gate.require(
            Check("input", request_id, engine.model.name, job.prompt, job.negative_prompt, shown)
        )
    except SafetyCheckFailed:
        raise
    except BaseException:  # refused, the client left, or the deadline passed
        context.limits.spend(caller, len(job.seeds))
        raise


def _canvas_sizes(body: GenerateRequest, model: ModelInfo) -> tuple[Size, ...]:
    """Width and height that the result of an edit may have: what the request names, or any of the model's."""
    named = shape_of(body, model)
    shapes = model.shapes if named is None else (model.shapes[named],)
    return tuple((shape.width, shape.height) for shape in shapes)


async def _edited(
    request: Request,
    body: GenerateRequest,
    context: Context,
    engine: EngineClient,
    job: Job,
    source: EditSource,
    deadline: float,
) -> tuple[Job, tuple[str, ...]]:
    """Return the job with the decoded image and the prompt for it, and warnings about the prompt."""
    caller, images = caller_of(request.scope), len(job.seeds)
    _check_limits(context, caller, images)
    work = before_deadline(
        deadline - engine.clock(), reading_of(job.prompt, engine), "its prompt was read"
    )
    prompt = EditPrompt(
        job.prompt,
        await unless_disconnected(request, work, "read prompt"),
        engine.model,
        draws_nearest=(body.on_unknown or context.settings.on_unknown) == "nearest",
    )
    if paints_part(body, source.files):
        prompt.require_known()
    decoding = _Decoding(context, source, caller, images, prompt)
    left = deadline - engine.clock()
    decoded = before_deadline(left, decoding.run(), "its image was decoded")
    edit = await unless_disconnected(request, decoded, "decode upload")
    wording = prompt.worded(edit)
    job = replace(job, prompt=wording.prompt, literal=wording.literal)
    return _editing(job, edit, engine.model), wording.notes


def _editing(job: Job, edit: ImageEdit, model: ModelInfo) -> Job:
    """Return the job with the decoded image, whose shape its images have."""
    size = f"{edit.image.width}x{edit.image.height}"
    return replace(job, edit=edit, shape=model.sizes.index(size))


def _submit(
    context: Context,
    engine: EngineClient,
    job: Job,
    deadline: float,
    caller: Caller,
    trace: RequestTrace | None,
) -> Ticket:
    """Queue a job and count it; one whose image has been decoded is counted even if there is no room for it."""
    images = len(job.seeds)
    _check_limits(context, caller, images)  # others may have come while an image was decoded
    try:
        ticket = engine.submit(job, deadline, trace)
    except ServerError:
        if job.edit is not None:
            context.limits.spend(caller, images)
        raise
    context.limits.spend(caller, images)
    return ticket


def _edit_options(body: GenerateRequest, files: EditFiles | None) -> EditOptions:
    given = [name for name, value in body.editing.items() if value is not None]
    if files is None and given:
        raise InvalidRequest(f"{given[0]} needs an image to edit.", param=given[0])
    if body.place is not None and body.keep_scales is not None:
        raise InvalidRequest(
            "keep_scales keeps what the image shows; leave it out with place, which generates its surroundings.",
            param="keep_scales",
        )
    if files is not None and files.mask is None and body.mask_kind is not None:
        raise InvalidRequest("mask_kind needs a mask.", param="mask_kind")
    place = parse_place(body.place) if body.place is not None else None
    return EditOptions(
        body.keep_scales,
        place,
        focus=body.focus is not False,
        feather=body.feather is not False,
        mask_kind=body.mask_kind,
    )


@dataclass(frozen=True)
class _Decoding:
    """The files of an edit on their way through the decoder; a caller pays for them unless they become a job."""

    context: Context
    source: EditSource
    caller: Caller
    images: int
    prompt: EditPrompt

    async def run(self) -> ImageEdit:
        begun = False

        def admit() -> None:  # others of the caller may have been served while this one waited
            nonlocal begun
            _check_limits(self.context, self.caller, self.images)
            begun = True

        try:
            edit = await self.context.decoder.decode(self.source, admit)
            if edit.mask is not None:  # which the image itself may have, in its transparent pixels
                self.prompt.require_known()
            return edit
        except BaseException as error:
            inspected_only = (
                isinstance(error, UnusableImage)
                and not error.decoded
                and error.param != "mask"  # which is read after the image
            )
            if begun and not inspected_only:
                self.context.limits.spend(self.caller, self.images)
            raise


def _check_limits(context: Context, caller: Caller, images: int) -> None:
    try:
        context.limits.check(caller, images)
        if caller.images_in_flight is not None:
            context.models.require_allowance(caller.name, images, caller.images_in_flight)
    except RateLimitExceeded as error:
        context.models.metrics.reject(error)
        raise
