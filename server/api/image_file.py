"""From pixels to the image file that a request asked for."""

from __future__ import annotations

from server.api.context import Context
from server.api.schemas import GenerateRequest
from server.dispatch.ticket import Ticket
from server.images.metadata import describe
from server.messages import Painted, Preview


async def encode_file(
    context: Context, body: GenerateRequest, ticket: Ticket, event: Painted | Preview
) -> bytes:
    """Encode an image of a request in its format, with its metadata; previews are not signed.

    Raises:
        SigningFailed: the server signs its images, and could not.
    """
    model = ticket.model
    metadata = describe(
        ticket.job,
        event.image,
        body.metadata or context.settings.metadata,
        model=model.name,
        size=model.size,
        scales=model.num_scales,
    )
    return await context.encoder.encode(
        event.pixels,
        body.image_format,
        body.quality,
        metadata,
        signed=isinstance(event, Painted),
    )
