"""What every endpoint that paints does with a native request: check it, admit it, deliver its images."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from fastapi import Request
from starlette.responses import Response

from server.api.context import Context
from server.api.disconnect import unless_disconnected
from server.api.plan import Plan, make_plan
from server.api.schemas import GenerateRequest
from server.api.streaming import EventKind, ImageStream
from server.dispatch.ticket import Ticket
from server.errors import InvalidRequest, RateLimitExceeded
from server.http.rate_limit import network_of
from server.http.request_log import RequestRecord, record_of
from server.images.canvas import EditOptions, parse_place, read_edit
from server.images.encode import MEDIA_TYPES
from server.images.uploads import EditFiles
from server.messages import ImageEdit, ModelInfo, Painted

R = TypeVar("R", bound=Response)


@dataclass(frozen=True)
class Painting:
    """A request that has been admitted. It must be streamed or finished: until then it holds its place."""

    request: Request
    context: Context
    plan: Plan
    ticket: Ticket

    def stream(self, kind: EventKind = "image_generation") -> ImageStream:
        """The answer as server-sent events."""
        return ImageStream(self.context, self.plan, self.ticket, record_of(self.request), kind)

    async def files(self) -> list[bytes]:
        """The image files, in the order of the seeds; each is written as soon as it is painted.

        Raises:
            ServerError: they could not be painted.
            ClientClosed: the client left first.
        """
        with self.ticket:
            files = await unless_disconnected(self.request, self._written())
        record_of(self.request).details |= self.ticket.times
        return files

    def image_answer(self, files: Sequence[bytes]) -> Response:
        """An answer that is the bytes of the first image; its seed and what was cut are in headers."""
        headers = {"x-seed": str(self.plan.job.seeds[0])}
        if self.ticket.warnings:
            headers["x-warnings"] = json.dumps(self.ticket.warnings)  # ASCII, as headers must be
        media_type = MEDIA_TYPES[self.plan.image_format]
        return self.timed(Response(files[0], media_type=media_type, headers=headers))

    def timed(self, answer: R) -> R:
        """An answer with the headers that say how long its images took, in seconds."""
        answer.headers["x-queue-time"] = f"{self.ticket.queue_seconds:.4f}"
        answer.headers["x-inference-time"] = f"{self.ticket.inference_seconds:.4f}"
        return answer

    async def _written(self) -> list[bytes]:
        encoder, plan = self.context.encoder, self.plan
        files: dict[int, bytes] = {}
        async for event in self.ticket.events():
            if isinstance(event, Painted):
                text = plan.text(event.image)
                files[event.image] = await encoder.encode(
                    event.pixels, plan.image_format, plan.quality, text
                )
        return [files[image] for image in sorted(files)]


async def admit(
    request: Request, body: GenerateRequest, context: Context, files: EditFiles | None = None
) -> Painting:
    """Check a request, count it against its caller's limits, and take its place in the queue.

    Args:
        request: it.
        body: what it asks for.
        context: of the app.
        files: the image to edit, if there is one; decoded once all else has been checked.

    Raises:
        InvalidRequest: the model or this server cannot do what is asked, or the files are of no use.
        RateLimitExceeded: the caller has used up its minute.
        QueueFull: there is no room for its images.
        Unavailable: nothing can be served right now.
    """
    client, record = context.client, record_of(request)
    job_id = f"{record.request_id}/{secrets.token_hex(4)}"
    model = client.admit()
    plan = make_plan(body, model, context.settings, job_id=job_id, now=client.clock())
    options = _edit_options(body, files)
    seeds, caller = plan.job.seeds, _caller(request, record)
    record.details |= {"n": len(seeds), "seed": seeds[0]}
    if context.settings.log_prompts:
        record.details["prompt"] = plan.job.prompt
    _check_limits(context, caller, len(seeds))
    if files is not None:
        edit = await _read_edit(files, options, model, context)
        plan = replace(plan, job=replace(plan.job, edit=edit))
        _check_limits(context, caller, len(seeds))  # others may have come meanwhile
    ticket = client.submit(plan.job)
    context.limits.spend(caller, len(seeds))
    return Painting(request, context, plan, ticket)


def _edit_options(body: GenerateRequest, files: EditFiles | None) -> EditOptions:
    given = [name for name, value in body.editing.items() if value is not None]
    if files is None and given:
        raise InvalidRequest(f"{given[0]} needs an image to edit.", param=given[0])
    if body.place is not None and body.keep_scales is not None:
        raise InvalidRequest(
            "keep_scales is for what the image shows; leave it out with place, which paints around it.",
            param="keep_scales",
        )
    place = parse_place(body.place) if body.place is not None else None
    return EditOptions(
        body.keep_scales, place, focus=body.focus is not False, feather=body.feather is not False
    )


async def _read_edit(
    files: EditFiles, options: EditOptions, model: ModelInfo, context: Context
) -> ImageEdit:
    read = partial(
        read_edit,
        files,
        options,
        side=model.image_size,
        scales=len(model.patch_nums),
        max_pixels=context.settings.max_image_pixels,
    )
    return await context.encoder.run(read)


def _check_limits(context: Context, caller: str, images: int) -> None:
    try:
        context.limits.check(caller, images)
    except RateLimitExceeded as error:
        context.client.metrics.reject(error)
        raise


def _caller(request: Request, record: RequestRecord) -> str:
    """Who counts against whose limits: the number of the key, or without keys the address."""
    if record.api_key is not None:
        return f"key {record.api_key}"
    return network_of(request.client.host) if request.client is not None else "unknown"
