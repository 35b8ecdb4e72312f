"""From pixels to the image file that a request asked for."""

from __future__ import annotations

import asyncio

from server.api.context import Context
from server.api.deadline import before_deadline
from server.api.schemas import GenerateRequest
from server.dispatch.ticket import Ticket
from server.images.metadata import describe
from server.messages import Painted, Preview

_GRACE_S = 0.1
"""Seconds after the deadline in which encoding may end. A ticket that is not over ends first, with its own reason."""


async def encode_file(
    context: Context, body: GenerateRequest, ticket: Ticket, event: Painted | Preview
) -> bytes:
    """Encode an image of a request in its format, with its metadata; previews are not signed.

    Raises:
        DeadlineExceeded: the request's deadline passed first.
        SigningFailed: the server signs its images, and could not.
    """
    model = ticket.model
    metadata = describe(
        ticket.job,
        event.image,
        body.metadata or context.settings.metadata,
        model=model.name,
        size=ticket.shape.size,
        scales=model.num_scales,
    )
    work = context.encoder.encode(
        event.pixels,
        body.image_format,
        body.quality,
        metadata,
        signed=isinstance(event, Painted),
    )
    if ticket.expiry is None:
        return await work
    left = ticket.expiry.when() - asyncio.get_running_loop().time()
    return await before_deadline(left + _GRACE_S, work, "its image was encoded")
