"""``POST /v1/images/edits``: OpenAI's form, with an image to edit."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import Response

from server.api.context import AppContext
from server.api.openai_images import respond
from server.api.openai_schemas import OpenAIEditForm, OpenAIImagesResponse
from server.api.responses import TIMES, error_responses, event_stream
from server.errors import InvalidRequest, UnsupportedMediaType
from server.images.uploads import EditFiles, Upload

router = APIRouter(prefix="/v1/images", tags=["OpenAI"])

_FORM = "multipart/form-data"


async def _is_form(request: Request) -> None:
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != _FORM:
        sent = f"not {given}" if given else "and the request names none"
        raise UnsupportedMediaType(f"The body must be sent with content-type: {_FORM}, {sent}.")


@router.post(
    "/edits",
    summary="Edit an image (OpenAI)",
    response_class=Response,
    responses={
        200: {
            "model": OpenAIImagesResponse,
            "description": "The images or, with `stream`, server-sent events.",
            "content": event_stream("image_edit"),
            "headers": TIMES,
        },
        **error_responses(400, 404, 413, 415, 429, 500, 503, 504),
    },
    operation_id="createImageEdit",
    dependencies=[Depends(_is_form)],
)
async def edits(
    request: Request, body: Annotated[OpenAIEditForm, Form(media_type=_FORM)], context: AppContext
) -> Response:
    """Generate `n` versions of an image.

    With a `mask`, the part that it marks is generated; the rest stays as it is, bit for bit if the image has the
    model's size. With `place`, the image is put on a larger canvas, and the rest of the canvas is generated. With
    neither, the image is varied: its coarse scales are kept and the fine ones generated anew (`keep_scales`).
    """
    given = [*body.image, *body.images]
    if len(given) != 1:
        raise InvalidRequest(f"image must be one file; got {len(given)}.", param="image")
    image = Upload("image", await given[0].read())
    mask = Upload("mask", await body.mask.read()) if body.mask is not None else None
    return await respond(request, body, context, EditFiles(image, mask))
