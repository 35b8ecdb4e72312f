"""``POST /v1/images/generations``: OpenAI's images API, translated to the native request."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.context import AppContext, Context
from server.api.delivery import admit
from server.api.image_content import keep_images
from server.api.models import check_model
from server.api.openai_schemas import OpenAIImage, OpenAIImageRequest, OpenAIImagesResponse
from server.api.responses import EVENT_STREAM, TIMES, error_responses
from server.api.schemas import GenerateRequest
from server.api.streaming import usage_of
from server.dispatch.ticket import Ticket
from server.errors import InvalidRequest
from server.images.encode import MEDIA_TYPES
from server.images.uploads import EditFiles

router = APIRouter(prefix="/v1/images", tags=["OpenAI"])

_LOSSLESS = 100


@router.post(
    "/generations",
    summary="Generate images (OpenAI)",
    response_class=Response,
    responses={
        200: {
            "model": OpenAIImagesResponse,
            "description": "The images or, with `stream`, server-sent events.",
            "content": EVENT_STREAM,
            "headers": TIMES,
        },
        **error_responses(400, 404, 413, 415, 429, 500, 503, 504),
    },
    operation_id="createImage",
)
async def generations(request: Request, body: OpenAIImageRequest, context: AppContext) -> Response:
    """Generate `n` images from a prompt, with the fields of OpenAI's images API.

    The native fields, such as `seed` and `guidance_scale`, are accepted too; with the official client, pass them in
    `extra_body`.
    """
    return await respond(request, body, context)


async def respond(
    request: Request, body: OpenAIImageRequest, context: Context, files: EditFiles | None = None
) -> Response:
    """Answer a request in OpenAI's form, with the image to edit if there is one."""
    model = context.client.require_ready()
    check_model(body.model, model)
    _check(body, context)
    native = _native(body)
    delivery = await admit(request, native, context, model, files)
    if body.stream:
        return delivery.stream("image_generation" if files is None else "image_edit")
    encoded = await delivery.files()
    if body.response_format == "url":
        media_type = MEDIA_TYPES[native.image_format]
        addresses = await keep_images(request, context, media_type, encoded)
        images = [{"url": address} for address in addresses]
    else:
        images = [{"b64_json": base64.b64encode(file).decode("ascii")} for file in encoded]
    answer = _answer(delivery.ticket, native, images)
    return delivery.timed(
        Response(answer.model_dump_json(exclude_none=True), media_type="application/json")
    )


def _check(body: OpenAIImageRequest, context: Context) -> None:
    """Check OpenAI's own fields, which the native request does not have."""
    image_format, compression = body.output_format or "png", body.output_compression
    if image_format == "png" and compression not in (None, _LOSSLESS):
        raise InvalidRequest(
            f"output_compression must be {_LOSSLESS} or left out for png, which is lossless; lower values are for "
            "webp and jpeg.",
            param="output_compression",
        )
    if body.response_format != "url":
        return
    if body.stream:
        raise InvalidRequest(
            'response_format must be "b64_json" with "stream": true: the events hold the images.',
            param="response_format",
        )
    if (body.n or 1) > context.store.max_images:
        raise InvalidRequest(
            f'response_format must be "b64_json" for more than {context.store.max_images} images: this server keeps '
            "no more for URLs.",
            param="response_format",
        )


def _native(body: OpenAIImageRequest) -> GenerateRequest:
    """Return the same request in the native form."""
    image_format = body.output_format or "png"
    compression = _LOSSLESS if body.output_compression is None else body.output_compression
    return GenerateRequest(
        prompt=body.prompt,
        n=body.n or 1,
        size=None if body.size == "auto" else body.size,
        format=image_format,
        quality=None if image_format == "png" else max(compression, 1),
        stream=bool(body.stream),
        partial_images=body.partial_images or 0,
        **body.extensions,
    )


def _answer(
    ticket: Ticket, native: GenerateRequest, images: Sequence[dict[str, str]]
) -> OpenAIImagesResponse:
    job, model = ticket.job, ticket.model
    return OpenAIImagesResponse(
        created=int(time.time()),
        data=[
            OpenAIImage(seed=seed, **image) for seed, image in zip(job.seeds, images, strict=True)
        ],
        output_format=native.image_format,
        size=model.size,
        usage=usage_of(ticket, len(images)),
        model=model.name,
        parameters=job.parameters,
        warnings=list(ticket.warnings),
    )
