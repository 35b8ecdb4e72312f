"""From pixels to the image file that a request asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from server.api.context import Context
from server.api.deadline import before_deadline
from server.api.schemas import GenerateRequest
from server.dispatch.ticket import Ticket
from server.images.metadata import describe
from server.messages import Painted, Preview
from server.safety.check import Check
from server.safety.gate import SafetyGate

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
    model = ticket.model
    metadata = describe(
        ticket.job,
        event.image,
        body.metadata or context.settings.metadata,
        model=model.name,
        size=ticket.shape.size,
        scales=model.num_scales,
    )
    encoding = context.encoder.encode(
        event.pixels,
        body.image_format,
        body.quality,
        metadata,
        signed=isinstance(event, Painted),
    )
    work = encoding
    if context.safety is not None and context.safety.sees_outputs:
        check = _check_of(ticket, event, request_id)
        work = _once_checked(context.safety, check, encoding)
    if ticket.expiry is None:
        return await work
    left = ticket.expiry.when() - asyncio.get_running_loop().time()
    return await before_deadline(left + _GRACE_S, work, "its image was encoded")


async def _once_checked(
    gate: SafetyGate, check: Check, encoding: Coroutine[Any, Any, bytes]
) -> bytes:
    try:
        await gate.require(check)
    except BaseException:
        encoding.close()  # never begun
        raise
    return await encoding


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
