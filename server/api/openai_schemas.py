"""Bodies of OpenAI's images API, as its reference and its official client define them, plus the native fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from server.api.schemas import (
    SAMPLED,
    WHITE_PNG,
    EditFields,
    GenerateRequest,
    PromptField,
    SamplingFields,
    Usage,
    input_config,
    output_config,
)
from server.images.encode import ImageFormat
from server.settings import OnUnknown

_MOST_CHARACTERS = 32_000
"""Of a prompt in OpenAI's API. The text encoder reads the beginning, and a warning quotes the rest."""

LongPrompt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=_MOST_CHARACTERS),
    Field(json_schema_extra={"pattern": r"\S"}),  # trimmed before its length is checked
]
LongNegativePrompt = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=_MOST_CHARACTERS)
]


class LongPrompts(BaseModel):
    """Texts as long as OpenAI allows."""

    prompt: LongPrompt = Field(description="Description of the image.")
    negative_prompt: LongNegativePrompt | None = Field(
        None, description="Text that guidance leads away from."
    )


class TranslatedRequest(LongPrompts, GenerateRequest):
    """An OpenAI request in the native form."""


class OpenAIImageRequest(SamplingFields, PromptField):
    """OpenAI's request; null is the same as left out. Values that this server cannot follow are refused."""

    model_config = input_config(
        {"prompt": "a red apple on a blue background", "model": "star-mini"},
        {
            "prompt": "a cartoon penguin",
            "n": 2,
            "output_format": "webp",
            "output_compression": 85,
            "seed": 7,
        },
        {"prompt": "a violin", "stream": True, "partial_images": 2},
        {"prompt": "a fox, flat style", "response_format": "url", "guidance_scale": 3.0},
    )

    model: str | None = Field(
        None, max_length=256, description="Name of the loaded model; may be left out."
    )
    n: int | None = Field(None, ge=1, le=10, description="Number of images; 1 when left out.")
    size: str | None = Field(
        None,
        max_length=32,
        description='"auto", or the width and height in pixels that the model generates.',
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None,
        description="The images themselves, or URLs under which they are kept for a limited time.",
    )
    output_format: ImageFormat | None = Field(
        None, description="Format of the image files; png when left out."
    )
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of webp and jpeg files; 100 when left out."
    )
    quality: Literal["auto", "standard", "high"] | None = Field(
        None, description="The model has one quality; all of these mean it."
    )
    background: Literal["auto", "opaque"] | None = Field(
        None, description="Images are always opaque."
    )
    moderation: Literal["auto", "low"] | None = Field(
        None, description="Nothing is filtered with either value."
    )
    style: None = Field(None, description="Not supported; describe the style in the prompt.")
    user: str | None = Field(
        None, max_length=512, description="Accepted, and neither used nor kept."
    )
    safety_identifier: str | None = Field(
        None, max_length=512, description="Accepted, and neither used nor kept."
    )
    on_unknown: OnUnknown | None = Field(
        None,
        description='What a model that knows few things does when the prompt asks for another: "nearest" draws the '
        'nearest thing, with a warning, "suggest" refuses it and names three prompts to try; nearest when left out.',
    )
    stream: bool | None = Field(None, description="Answer with server-sent events.")
    partial_images: int | None = Field(
        None, ge=0, le=3, description="Previews of each image in a stream; 0 when left out."
    )

    @property
    def extensions(self) -> dict[str, Any]:
        """Return the native fields as they were given."""
        return self.sampling | {"on_unknown": self.on_unknown}


class OpenAIEditRequest(EditFields, OpenAIImageRequest):
    """OpenAI's request for an edit, without its files. The values of a form are all text."""

    model_config = ConfigDict(strict=False)

    input_fidelity: Literal["high"] | None = Field(
        None, description="Everything outside the mask is always kept as it is."
    )

    @property
    def extensions(self) -> dict[str, Any]:
        return super().extensions | self.editing


class LenientImageRequest(LongPrompts, OpenAIImageRequest):
    """OpenAI's request. Null and empty values are the same as left out.

    Fields and values beyond these are served too, and `warnings` says what had no effect.
    """


class LenientEditRequest(LongPrompts, OpenAIEditRequest):
    """OpenAI's request for an edit, without its files."""


_FILE: dict[str, JsonValue] = {"type": "string", "format": "binary"}
_MASK = (
    "The part of the image to generate, as an image of the same size: its transparent pixels or, in an opaque mask, "
    "its white pixels. When left out, the transparent pixels of the image itself."
)


class OpenAIEditForm(LenientEditRequest):
    """An edit as a form. The image may also be named `image[]`, `images` or `image[0]`.

    Fields and values beyond these are served too, and `warnings` says what had no effect.
    """

    model_config = input_config(
        {"prompt": "a red apple", "image": "(a file)", "mask": "(a file)", "seed": 1}
    )

    image: str = Field(
        description="The image to edit, one PNG, JPEG or WebP file.", json_schema_extra=_FILE
    )
    mask: str | None = Field(None, description=_MASK, json_schema_extra=_FILE)


class ImageReference(BaseModel):
    """An image inside a JSON request."""

    image_url: str = Field(
        description="A data: URL of a PNG, JPEG or WebP file. Other URLs are refused, and never fetched."
    )


class OpenAIEditJson(LenientEditRequest):
    """An edit as JSON.

    Fields and values beyond these are served too, and `warnings` says what had no effect.
    """

    model_config = input_config(
        {
            "prompt": "a red apple",
            "images": [{"image_url": f"data:image/png;base64,{WHITE_PNG}"}],
            "keep_scales": 2,
        }
    )

    images: list[ImageReference] = Field(
        min_length=1, max_length=1, description="The image to edit."
    )
    mask: ImageReference | None = Field(None, description=_MASK)


class OpenAIImage(BaseModel):
    """One finished image, or its URL."""

    b64_json: str | None = Field(None, description="The image file in base64.")
    url: str | None = Field(None, description="URL of the image file, valid for a limited time.")
    seed: int = Field(description="Seed with which the same request generates this image again.")


class OpenAIImagesResponse(BaseModel):
    """OpenAI's answer; the model, the parameters, the warnings and each image's seed are added by this server."""

    model_config = output_config(
        {
            "created": 1767225600,
            "background": "opaque",
            "data": [{"b64_json": "iVBORw0KGgo=", "seed": 1}],
            "output_format": "png",
            "quality": "high",
            "size": "512x512",
            "usage": Usage.of(7, 680).model_dump(),
            "model": "star-mini",
            "parameters": SAMPLED,
            "warnings": [],
        }
    )

    created: int = Field(description="Unix time in seconds.")
    background: Literal["opaque"] = "opaque"
    data: list[OpenAIImage]
    output_format: ImageFormat
    quality: Literal["high"] = "high"
    size: str
    usage: Usage
    model: str
    parameters: dict[str, float | int | str] = Field(
        description="Parameters that the images were sampled with."
    )
    warnings: list[str] = Field(
        description="Sentences for the caller, such as which part of the prompt was cut off; usually empty."
    )
