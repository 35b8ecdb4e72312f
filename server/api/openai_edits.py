"""``POST /v1/images/edits``: OpenAI's edits, a form or JSON with an image in it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.context import AppContext
from server.api.openai_images import respond
from server.api.openai_requests import read_edit
from server.api.openai_schemas import OpenAIEditForm, OpenAIEditJson, OpenAIImagesResponse
from server.api.responses import TIMES, error_responses, event_stream, request_body
from server.http.json_body import BodyRoute

router = APIRouter(tags=["OpenAI"], route_class=BodyRoute)


@router.post("/openai/v1/images/edits", include_in_schema=False)
@router.post("/openai/deployments/{deployment}/images/edits", include_in_schema=False)
@router.post(
    "/v1/images/edits",
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
    openapi_extra=request_body(
        {"multipart/form-data": OpenAIEditForm, "application/json": OpenAIEditJson}
    ),
)
async def edits(request: Request, context: AppContext) -> Response:
    """Generate `n` versions of an image.

    With a `mask`, the part that it marks is generated; the rest stays as it is, bit for bit if the image has the
    model's size. With `place`, the image is put on a larger canvas, and the rest of the canvas is generated. With
    neither, the image is varied: its coarse scales are kept and the fine ones generated anew (`keep_scales`).
    """
    return await respond(request, await read_edit(request, context.settings), context)
