"""``POST /v1/images/generations``: OpenAI's images API, translated to the native request."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.context import AppContext, Context
from server.api.delivery import Delivery, admit
from server.api.edit_prompt import paints_part
from server.api.image_content import keep_images
from server.api.jobs import nearest_shape
from server.api.model_names import serving
from server.api.openai_requests import OpenAIRequest, read_generation
from server.api.openai_schemas import (
    LenientImageRequest,
    OpenAIImage,
    OpenAIImageRequest,
    OpenAIImagesResponse,
    TranslatedRequest,
)
from server.api.responses import EVENT_STREAM, TIMES, error_responses, request_body
from server.api.schemas import GenerateRequest
from server.api.streaming import usage_of
from server.api.vocabulary import require_thing
from server.errors import InvalidRequest
from server.http.json_body import BodyRoute
from server.images.encode import MEDIA_TYPES
from server.messages import ModelInfo
from server.settings import Settings
from server.validation import shorten

router = APIRouter(tags=["OpenAI"], route_class=BodyRoute)

_LOSSLESS = 100


# Azure's client writes the name of a deployment into the path, or the whole path behind /openai.
@router.post("/openai/v1/images/generations", include_in_schema=False)
@router.post("/openai/deployments/{deployment}/images/generations", include_in_schema=False)
@router.post(
    "/v1/images/generations",
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
    openapi_extra=request_body({"application/json": LenientImageRequest}),
)
async def generations(request: Request, context: AppContext) -> Response:
    """Generate `n` images from a prompt, with the fields of OpenAI's images API.

    The native fields, such as `seed` and `guidance_scale`, are accepted too; with the official client, pass them in
    `extra_body`. A request that asks for what this server has not is served as far as it goes, and `warnings` says
    what had no effect; with `compatibility: strict` it is refused.
    """
    return await respond(request, await read_generation(request, context.settings), context)


async def respond(request: Request, asked: OpenAIRequest, context: Context) -> Response:
    """Answer a request in OpenAI's form."""
    named = request.path_params.get("deployment", asked.body.model)
    with serving(named, context, as_openai=True) as engine:
        body, warnings = asked.body, list(asked.warnings)
        if context.settings.compatibility == "lenient":
            body, fitted = _fitted(body, named, engine.model, context.settings)
            warnings += fitted
        as_url = _answers_url(body, named, context, warnings)
        _check(body, as_url, context)
        native = _native(body)
        if not paints_part(native, asked.files):
            await require_thing(request, native, context, engine, "nearest")
        delivery = await admit(request, native, context, engine, asked.files, warnings)
    if body.stream:
        return delivery.stream("image_generation" if asked.files is None else "image_edit")
    encoded = await delivery.files()
    if as_url:
        media_type = MEDIA_TYPES[native.image_format]
        addresses = await keep_images(request, context, media_type, encoded)
        images = [{"url": address} for address in addresses]
    else:
        images = [{"b64_json": base64.b64encode(file).decode("ascii")} for file in encoded]
    answer = _answer(delivery, native, images)
    return delivery.timed(
        Response(answer.model_dump_json(exclude_none=True), media_type="application/json")
    )


def _fitted(
    body: OpenAIImageRequest, named: str | None, model: ModelInfo, settings: Settings
) -> tuple[OpenAIImageRequest, list[str]]:
    """Replace what the loaded model and this server cannot do by the nearest that they can, and say so."""
    warnings: list[str] = []
    changes: dict[str, Any] = {}
    if named is not None and named != model.name:
        warnings.append(
            f"{model.name} generated this; {shorten(named)} is another name for it here."
        )
    if body.size is not None:
        size = body.size.strip().lower()
        if size not in ("auto", *model.sizes):
            shown, size = json.dumps(body.size, ensure_ascii=False), _nearest_size(model, size)
            warnings.append(
                f"size {shown} is not one of {model.name}; the images are {size}, the nearest that it has."
            )
        changes["size"] = size
    if body.partial_images and not settings.previews:
        changes["partial_images"] = None
        warnings.append("partial_images had no effect: this server sends no previews.")
    elif body.partial_images and settings.previews_unseen:
        changes["partial_images"] = None
        warnings.append(
            "partial_images had no effect: this server checks images before it sends them, finished ones alone."
        )
    return body.model_copy(update=changes), warnings


def _nearest_size(model: ModelInfo, size: str) -> str:
    """Return the size of the model whose ratio is nearest; the default if ``size`` is no width and height."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
    return model.sizes[nearest_shape(model, int(found[2]) / int(found[1])) if found else 0]


def _answers_url(
    body: OpenAIImageRequest, named: str | None, context: Context, warnings: list[str]
) -> bool:
    """Tell whether the answer holds URLs; what is left out means what it means at OpenAI, or what the settings say."""
    if body.stream or body.response_format is not None:
        return body.response_format == "url"
    default = context.settings.default_response_format
    wanted = default == "url" or (
        default == "auto"
        and context.settings.compatibility == "lenient"
        and (named or "").lower().startswith("dall-e")
    )
    if wanted and (body.n or 1) > context.store.max_images:
        warnings.append("The answer holds the images in b64_json: this server keeps none for URLs.")
        return False
    return wanted


def _check(body: OpenAIImageRequest, as_url: bool, context: Context) -> None:
    """Check OpenAI's own fields, which the native request does not have."""
    image_format, compression = body.output_format or "png", body.output_compression
    if image_format == "png" and compression not in (None, _LOSSLESS):
        raise InvalidRequest(
            f"output_compression must be {_LOSSLESS} or left out for png, which is lossless; lower values are for "
            "webp and jpeg.",
            param="output_compression",
        )
    if body.stream and body.response_format == "url":
        raise InvalidRequest(
            'response_format must be "b64_json" with "stream": true: the events hold the images.',
            param="response_format",
        )
    if as_url and (body.n or 1) > context.store.max_images:
        raise InvalidRequest(
            f'response_format must be "b64_json" for more than {context.store.max_images} images: this server keeps '
            "no more for URLs.",
            param="response_format",
        )


def _native(body: OpenAIImageRequest) -> GenerateRequest:
    """Return the same request in the native form."""
    image_format = body.output_format or "png"
    compression = _LOSSLESS if body.output_compression is None else body.output_compression
    return TranslatedRequest(
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
    delivery: Delivery, native: GenerateRequest, images: Sequence[dict[str, str]]
) -> OpenAIImagesResponse:
    ticket = delivery.ticket
    job, model = ticket.job, ticket.model
    return OpenAIImagesResponse(
        created=int(time.time()),
        data=[
            OpenAIImage(seed=seed, **image) for seed, image in zip(job.seeds, images, strict=True)
        ],
        output_format=native.image_format,
        size=ticket.shape.size,
        usage=usage_of(ticket, len(images)),
        model=model.name,
        parameters=job.parameters,
        warnings=delivery.warnings,
    )
