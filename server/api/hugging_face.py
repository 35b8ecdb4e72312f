"""``POST /``: Hugging Face's text-to-image task, as its ``InferenceClient`` sends it to a server's address."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from server.api.accept import preferred
from server.api.context import AppContext
from server.api.delivery import admit
from server.api.model_names import serving
from server.api.responses import IMAGE_FILES, TIMES, error_responses
from server.api.schemas import GenerateRequest, Prompt, SamplingFields, input_config
from server.errors import InvalidRequest, NotAcceptable
from server.http.json_body import BodyRoute
from server.images.encode import FORMATS, ImageFormat
from server.messages import ModelInfo
from server.validation import shorten

router = APIRouter(tags=["Hugging Face"], route_class=BodyRoute)


class TextToImageParameters(SamplingFields):
    """Parameters of the task; ``top_k``, ``top_p``, ``smooth_scales`` and ``timeout_s`` are this server's."""

    width: int | None = Field(
        None, ge=1, le=65_536, description="Width in pixels; only the one that the model generates."
    )
    height: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Height in pixels; only the one that the model generates.",
    )
    num_inference_steps: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Only the model's number of scales, all of which it always runs.",
    )
    scheduler: None = Field(None, description="Not supported: schedulers are for diffusion models.")


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
        _check(parameters, engine.model)
        native = GenerateRequest(
            prompt=body.inputs,
            format=_format(request),
            size=_size(parameters, engine.model),
            **parameters.sampling,
        )
        delivery = await admit(request, native, context, engine)
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
    """Check that the parameters are those of the model."""
    possible = {
        "width": sorted({shape.width for shape in model.shapes}),
        "height": sorted({shape.height for shape in model.shapes}),
        "num_inference_steps": [len(model.patch_nums)],
    }
    for name, values in possible.items():
        given = getattr(parameters, name)
        if given is not None and given not in values:
            only = ", the only value" if len(values) == 1 else ", the values"
            raise InvalidRequest(
                f"{name} must be {' or '.join(map(str, values))}{only} for {model.name}; got {given}.",
                param=f"parameters.{name}",
            )


def _size(parameters: TextToImageParameters, model: ModelInfo) -> str | None:
    """Return the size that is asked for, the first with the width or the height if only one of them is given."""
    asked = (parameters.width, parameters.height)
    if asked == (None, None):
        return None
    for shape in model.shapes:
        if asked[0] in (None, shape.width) and asked[1] in (None, shape.height):
            return shape.size
    raise InvalidRequest(
        f"width and height must be one of {', '.join(model.sizes)}, the sizes of {model.name}; "
        f"got {asked[0]}x{asked[1]}.",
        param="parameters.width",
    )
