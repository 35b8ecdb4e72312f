"""OpenAI's images API, as its reference and its official client have it, with the native fields beside."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, BeforeValidator, Field

from server.api.schemas import (
    SAMPLED,
    EditFields,
    PromptField,
    SamplingFields,
    Usage,
    input_config,
    output_config,
)
from server.images.encode import ImageFormat


class OpenAIImageRequest(SamplingFields, PromptField):
    """OpenAI's request; null is the same as left out. Values that this server cannot honour are refused."""

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
        None, max_length=256, description="The loaded model's name, if any is given."
    )
    n: int | None = Field(None, ge=1, le=10, description="How many images; 1 when left out.")
    size: str | None = Field(
        None,
        max_length=32,
        description='"auto", or width and height in pixels: what the model paints.',
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None,
        description="The images in the answer, or addresses that they are kept under for a while.",
    )
    output_format: ImageFormat | None = Field(
        None, description="Of the image files; png when left out."
    )
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of webp and jpeg files; 100 when left out."
    )
    quality: Literal["auto", "standard", "high"] | None = Field(
        None, description="The model has one quality, its best: these all mean it."
    )
    background: Literal["auto", "opaque"] | None = Field(None, description="The images are opaque.")
    moderation: Literal["auto", "low"] | None = Field(
        None, description="Nothing is filtered, either way."
    )
    style: None = Field(None, description="The model has none; say it in the prompt.")
    user: str | None = Field(
        None, max_length=512, description="Accepted, and neither used nor kept."
    )
    safety_identifier: str | None = Field(
        None, max_length=512, description="Accepted, and neither used nor kept."
    )
    stream: bool | None = Field(None, description="Answer with server-sent events.")
    partial_images: int | None = Field(
        None, ge=0, le=3, description="Previews of each image in a stream; 0 when left out."
    )

    @property
    def extensions(self) -> dict[str, Any]:
        """The native fields as they are given."""
        return self.sampling


def _is_file(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError("send a file, with a filename in its part of the form.")
    return value


File = Annotated[UploadFile, BeforeValidator(_is_file)]


class OpenAIEditForm(EditFields, OpenAIImageRequest):
    """OpenAI's request for an edit: a form, whose values are all text; an empty one is the same as left out."""

    model_config = input_config(
        {"prompt": "a red apple", "image": "(a file)", "mask": "(a file)", "seed": "1"}
    ) | {"strict": False}

    image: list[File] = Field([], description="The image to edit, one PNG, JPEG or WebP file.")
    images: list[File] = Field(
        [], alias="image[]", description="The same, as some clients name it."
    )
    mask: File | None = Field(
        None,
        description="What of the image to paint, as another of the same size: transparent pixels, or in an opaque mask "
        "white ones. When left out, what is transparent in the image.",
    )
    input_fidelity: Literal["high"] | None = Field(
        None, description="What is not to be painted is kept as it is."
    )

    @property
    def extensions(self) -> dict[str, Any]:
        return self.sampling | self.editing


class OpenAIImage(BaseModel):
    """One finished image: itself or its address."""

    b64_json: str | None = Field(None, description="The image file in base64.")
    url: str | None = Field(None, description="Where the image file is, for a limited time.")
    seed: int = Field(description="With which the same request paints it again.")


class OpenAIImagesResponse(BaseModel):
    """OpenAI's answer; the model, the parameters, the warnings and each image's seed are this server's."""

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
        description="What the images were sampled with."
    )
    warnings: list[str] = Field(
        description="Sentences, such as what of the prompt did not fit; mostly empty."
    )
