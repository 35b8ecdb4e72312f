"""``POST /generate``: the service's own interface."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.accept import preferred
from server.api.context import AppContext
from server.api.delivery import Delivery, admit
from server.api.edit_prompt import paints_part
from server.api.model_names import serving
from server.api.responses import EVENT_STREAM, IMAGE_FILES, TIMES, error_responses
from server.api.schemas import GenerateRequest, GenerateResponse, ImageData
from server.api.vocabulary import require_thing
from server.errors import InvalidRequest, NotAcceptable
from server.http.json_body import BodyRoute
from server.images.encode import FORMATS, MEDIA_TYPES, ImageFormat
from server.images.uploads import EditFiles, Upload
from server.validation import shorten

router = APIRouter(tags=["images"], route_class=BodyRoute)


@router.post(
    "/generate",
    summary="Generate images",
    response_class=Response,
    responses={
        200: {
            "model": GenerateResponse,
            "description": "The images: as JSON, as the file of one image, or as server-sent events.",
            "content": IMAGE_FILES | EVENT_STREAM,
            "headers": TIMES,
        },
        **error_responses(400, 404, 406, 413, 415, 429, 500, 503, 504),
    },
    operation_id="generate",
)
async def generate(request: Request, body: GenerateRequest, context: AppContext) -> Response:
    """Generate `n` images from a prompt.

    The answer is JSON with the images in base64; with `Accept: image/png`, `image/webp` or `image/jpeg`, it is the
    file of one image; with `"stream": true`, it is server-sent events, previews first.

    With an `image`, a part of it is generated anew (`mask`), or its surroundings are (`place`), or all of it but its
    coarsest scales (`keep_scales`).
    """
    as_image = None if body.stream else _negotiate(request, body)
    if as_image is not None:
        body = body.model_copy(update={"format": as_image})
    with serving(body.model, context) as engine:
        uploads = _files(body)
        if not paints_part(body, uploads):
            await require_thing(request, body, context, engine, context.settings.on_unknown)
        delivery = await admit(request, body, context, engine, uploads)
    if body.stream:
        return delivery.stream()
    files = await delivery.files()
    return (
        delivery.image_answer(files)
        if as_image is not None
        else _json_answer(delivery, body, files)
    )


def _files(body: GenerateRequest) -> EditFiles | None:
    """Return the image to edit, if there is one."""
    mask = Upload("mask", body.mask) if body.mask is not None else None
    if body.image is not None:
        return EditFiles(Upload("image", body.image), mask)
    if mask is not None:
        raise mask.refusal("needs an image to edit")
    return None


def _negotiate(request: Request, body: GenerateRequest) -> ImageFormat | None:
    """Return the format of the one image file to answer with, or None for JSON."""
    accept = request.headers.get("accept")
    images = list(FORMATS)
    if body.format is not None:  # the format that the body names is preferred to the others
        images.sort(key=lambda media_type: FORMATS[media_type] != body.format)
    choice = preferred(accept, ["application/json", *images])
    if choice is None:
        raise NotAcceptable(
            f"Accept must allow application/json, {', '.join(FORMATS)}; for text/event-stream also set "
            f'"stream": true. It is {shorten(accept or "")}.',
            param="accept",
        )
    if choice not in FORMATS:
        return None
    if body.n != 1:
        raise InvalidRequest(
            f"n must be 1 with Accept: {choice}, which is one image; accept application/json for {body.n} images.",
            param="n",
        )
    if body.format is not None and MEDIA_TYPES[body.format] != choice:
        raise InvalidRequest(
            f'format is "{body.format}", but the Accept header asks for {choice}.', param="format"
        )
    return FORMATS[choice]


def _json_answer(delivery: Delivery, body: GenerateRequest, files: Sequence[bytes]) -> Response:
    ticket = delivery.ticket
    answer = GenerateResponse(
        created=int(time.time()),
        model=ticket.model.name,
        dtype=ticket.model.dtype,
        size=ticket.shape.size,
        format=body.image_format,
        parameters=ticket.job.parameters,
        data=[
            ImageData(b64_json=base64.b64encode(file).decode("ascii"), seed=seed)
            for file, seed in zip(files, ticket.job.seeds, strict=True)
        ],
        warnings=delivery.warnings,
    )
    return delivery.timed(Response(answer.model_dump_json(), media_type="application/json"))
