"""``POST /``: Hugging Face's text-to-image task, as its ``InferenceClient`` sends it to a server's address."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from server.api.accept import preferred
from server.api.context import AppContext
from server.api.delivery import admit
from server.api.jobs import nearest_shape
from server.api.model_names import serving
from server.api.responses import IMAGE_FILES, TIMES, error_responses
from server.api.schemas import GenerateRequest, Prompt, SamplingFields, input_config
from server.api.vocabulary import require_thing
from server.errors import InvalidRequest, NotAcceptable
from server.http.json_body import BodyRoute
from server.images.encode import FORMATS, ImageFormat
from server.messages import ImageShape, ModelInfo
from server.validation import shorten

router = APIRouter(tags=["Hugging Face"], route_class=BodyRoute)


class TextToImageParameters(SamplingFields):
    """Parameters of the task; ``top_k``, ``top_p``, ``smooth_scales`` and ``timeout_s`` are this server's.

    The first four are of other models. A value that the loaded model has not is served with a warning, or refused if
    the server is strict.
    """

    width: int | None = Field(
        None, ge=1, le=65_536, description="Width in pixels: of the model's sizes, or the nearest."
    )
    height: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Height in pixels: of the model's sizes, or the nearest.",
    )
    num_inference_steps: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="The model's number of scales, all of which it always runs; another has no effect.",
    )
    scheduler: str | None = Field(
        None, max_length=256, description="No effect: schedulers are for diffusion models."
    )


class TextToImageInput(BaseModel):
    """The body of the task."""

    model_config = input_config(
        {"inputs": "a red apple on a blue background"},
        {"inputs": "a frog, 3d style", "parameters": {"seed": 5, "guidance_scale": 3.0}},
    )

    inputs: Prompt = Field(description="Description of the image.")
    parameters: TextToImageParameters | None = None


@router.post(
    "/",
    summary="Generate one image (Hugging Face)",
    response_class=Response,
    responses={
        200: {"description": "The image file.", "content": IMAGE_FILES, "headers": TIMES},
        **error_responses(400, 406, 413, 415, 429, 500, 503, 504),
    },
    operation_id="textToImage",
)
async def text_to_image(request: Request, body: TextToImageInput, context: AppContext) -> Response:
    """Generate one image from a prompt, as `InferenceClient(base_url).text_to_image(prompt)` requests it.

    The answer is the bytes of the image, in the format that the `Accept` header prefers: PNG, WebP or JPEG.
    """
    parameters = body.parameters or TextToImageParameters()
    with serving(None, context) as engine:
        if context.settings.compatibility == "strict":
            _check(parameters, engine.model)
        size, notes = _fitted(parameters, engine.model)
        native = GenerateRequest(
            prompt=body.inputs, format=_format(request), size=size, **parameters.sampling
        )
        await require_thing(request, native, context, engine, "nearest")
        delivery = await admit(request, native, context, engine, notes=notes)
    return delivery.image_answer(await delivery.files())


def _format(request: Request) -> ImageFormat:
    """Return the format that the ``Accept`` header prefers.

    Raises:
        NotAcceptable: it allows none of them.
    """
    accept = request.headers.get("accept")
    media_type = preferred(accept, list(FORMATS))
    if media_type is None:
        raise NotAcceptable(
            f"Accept must allow {', '.join(FORMATS)}; it is {shorten(accept or '')}.",
            param="accept",
        )
    return FORMATS[media_type]


def _check(parameters: TextToImageParameters, model: ModelInfo) -> None:
    """Check that the parameters are those of the model.

    Raises:
        InvalidRequest: one of them is not.
    """
    if parameters.scheduler is not None:
        raise InvalidRequest(
            f"scheduler must be null or left out; got {json.dumps(shorten(parameters.scheduler))}.",
            param="parameters.scheduler",
        )
    possible = {
        "width": sorted({shape.width for shape in model.shapes}),
        "height": sorted({shape.height for shape in model.shapes}),
        "num_inference_steps": [model.num_scales],
    }
    for name, values in possible.items():
        given = getattr(parameters, name)
        if given is not None and given not in values:
            only = ", the only value" if len(values) == 1 else ", the values"
            raise InvalidRequest(
                f"{name} must be {' or '.join(map(str, values))}{only} for {model.name}; got {given}.",
                param=f"parameters.{name}",
            )
    if not _shapes_of(parameters, model):
        raise InvalidRequest(
            f"width and height must be one of {', '.join(model.sizes)}, the sizes of {model.name}; "
            f"got {parameters.width}x{parameters.height}.",
            param="parameters.width",
        )


def _fitted(parameters: TextToImageParameters, model: ModelInfo) -> tuple[str | None, list[str]]:
    """Return the model's size that is asked for or nearest, None for its default, and warnings about the rest."""
    notes = list[str]()
    if parameters.num_inference_steps not in (None, model.num_scales):
        notes.append(
            f"num_inference_steps {parameters.num_inference_steps} had no effect: {model.name} always runs its "
            f"{model.num_scales} scales."
        )
    if parameters.scheduler is not None:
        notes.append(
            f"scheduler {json.dumps(shorten(parameters.scheduler))} had no effect: schedulers are for diffusion models."
        )
    width, height = parameters.width, parameters.height
    if width is None and height is None:
        return None, notes
    if exact := _shapes_of(parameters, model):
        return exact[0].size, notes
    size = model.sizes[nearest_shape(model, height / width) if width and height else 0]
    asked = " and ".join(
        f"{name} {value}" for name, value in (("width", width), ("height", height)) if value
    )
    notes.append(
        f"{asked}: the image is {size}, the nearest size of {model.name}."
        if len(model.sizes) > 1
        else f"{asked}: the image is {size}, the size of {model.name}."
    )
    return size, notes


def _shapes_of(parameters: TextToImageParameters, model: ModelInfo) -> list[ImageShape]:
    """Return the shapes of the model with this width and this height; what is not given may be any."""
    return [
        shape
        for shape in model.shapes
        if parameters.width in (None, shape.width) and parameters.height in (None, shape.height)
    ]
