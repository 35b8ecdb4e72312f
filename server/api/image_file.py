"""From pixels to the image file that a request asked for."""

from __future__ import annotations

import asyncio

from server.api.context import Context
from server.api.deadline import before_deadline
from server.api.schemas import GenerateRequest
from server.dispatch.ticket import Ticket
from server.images.metadata import ImageMetadata, describe
from server.messages import Painted, Preview
from server.safety.check import Check

_GRACE_S = 0.1
"""Seconds after the deadline in which encoding may end. A ticket that is not over ends first, with its own reason."""


async def deliver_file(
    context: Context,
    body: GenerateRequest,
    ticket: Ticket,
    event: Painted | Preview,
    request_id: str,
) -> bytes:
    """Check an image of a request, then encode it in its format, with its metadata; previews are not signed.

    Raises:
        ModerationBlocked: the safety hook refuses the image.
        SafetyCheckFailed: it could not be checked.
        DeadlineExceeded: the request's deadline passed first.
        SigningFailed: the server signs its images, and could not.
    """
    work = _checked_and_encoded(context, body, ticket, event, request_id)
    if ticket.expiry is None:
        return await work
    left = ticket.expiry.when() - asyncio.get_running_loop().time()
    return await before_deadline(left + _GRACE_S, work, "its image was encoded")


async def _checked_and_encoded(
    context: Context,
    body: GenerateRequest,
    ticket: Ticket,
    event: Painted | Preview,
    request_id: str,
) -> bytes:
    clock, trace = context.models.clock, ticket.trace
    if context.safety is not None and context.safety.sees_outputs:
        started = clock()
        try:
            await context.safety.require(_check_of(ticket, event, request_id))
        finally:
            if trace is not None:
                trace.checked(event.image, started, clock())
    partial, started = isinstance(event, Preview), clock()
    data = await context.encoder.encode(
        event.pixels,
        body.image_format,
        body.quality,
        _metadata_of(context, body, ticket, event.image),
        signed=not partial,
    )
    if trace is not None:
        form, size = body.image_format, len(data)
        trace.encoded(event.image, started, clock(), form=form, size=size, partial=partial)
    return data


def _metadata_of(
    context: Context, body: GenerateRequest, ticket: Ticket, image: int
) -> ImageMetadata | None:
    return describe(
        ticket.job,
        image,
        body.metadata or context.settings.metadata,
        model=ticket.model.name,
        size=ticket.shape.size,
        scales=ticket.model.num_scales,
        dtype=ticket.model.dtype,
    )


def _check_of(ticket: Ticket, event: Painted | Preview, request_id: str) -> Check:
    job = ticket.job
    return Check(
        "output",
        request_id,
        ticket.model.name,
        job.prompt,
        job.negative_prompt,
        event.pixels,
        event.image,
        partial=isinstance(event, Preview),
    )
