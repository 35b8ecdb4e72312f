"""What the endpoints read and write, as OpenAPI documents it. Types are strict: ``"4"`` is no number."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from server.images.encode import ImageFormat
from server.sampling import SamplingOverrides
from star_model.sampling import Sampling, Seed

Prompt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000),
    Field(json_schema_extra={"pattern": r"\S"}),  # trimmed before it is measured
]
NegativePrompt = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)]

WHITE_PNG = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAAD0lEQVR4nGP8z8DEQAICADIBAR9ZTeQQAAAAAElFTkSuQmCC"
"""A file of 16 x 16 white pixels in base64, for examples."""


def input_config(*examples: dict[str, Any]) -> ConfigDict:
    """The configuration of a request body: strict types, no unknown fields, no infinities."""
    return ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={"examples": list(examples)},
    )


class PromptField(BaseModel):
    """What comes first in a request."""

    prompt: Prompt = Field(description="What to paint.")


def output_config(example: dict[str, Any]) -> ConfigDict:
    """The configuration of an answer."""
    return ConfigDict(json_schema_extra={"examples": [example]})


class SamplingFields(SamplingOverrides):
    """Fields of every request for images. A field left out has the model's default."""

    model_config = input_config()

    negative_prompt: NegativePrompt | None = Field(
        None, description="Text that guidance leads away from."
    )
    seed: Seed | None = Field(
        None,
        description="Seed of the first image; the next images have the numbers after it, wrapping at 2^32. "
        "Random when left out, and reported either way.",
    )
    timeout_s: float | None = Field(
        None, gt=0, le=86_400, description="Give up after this many seconds, queueing included."
    )

    @property
    def sampling(self) -> dict[str, Any]:
        """These fields as they are given, for a request of another form."""
        return {name: getattr(self, name) for name in SamplingFields.model_fields}


class EditFields(BaseModel):
    """How an image that comes with the request is to be edited."""

    keep_scales: int | None = Field(
        None,
        ge=0,
        description="How many of the model's scales, coarsest first, stay the image's own: 0 is none of its layout, "
        "all of them is the image as the model sees it. With a mask, inside it; when left out, what is there is "
        "forgotten. Without a mask, half of them when left out.",
    )
    place: str | None = Field(
        None,
        max_length=100,
        description="To paint around the image: the left, top, right and bottom edge of where on the canvas it goes, "
        'as fractions, such as "0.25,0.25,0.75,0.75".',
    )
    focus: bool | None = Field(
        None,
        description="Paint a small masked part at the model's full resolution, in a window around it, which the prompt "
        "is then about; true when left out. false paints the whole picture and takes the part from that, so that the "
        "prompt is about the whole.",
    )
    feather: bool | None = Field(
        None,
        description="Fade into what is painted over a few pixels inside the mask; true when left out.",
    )

    @property
    def editing(self) -> dict[str, Any]:
        """These fields as they are given, for a request of another kind."""
        return {name: getattr(self, name) for name in EditFields.model_fields}


class GenerateRequest(EditFields, SamplingFields, PromptField):
    """A picture to paint. What is left out has the model's own default."""

    model_config = input_config(
        {"prompt": "a red apple on a blue background", "seed": 1},
        {
            "prompt": "a frog to the left of a rocket, 3d style",
            "n": 4,
            "format": "webp",
            "quality": 85,
        },
        {"prompt": "a violin", "stream": True, "partial_images": 2},
        {
            "prompt": "a fox",
            "image": f"data:image/png;base64,{WHITE_PNG}",
            "place": "0.25,0.25,0.75,0.75",
        },
    )

    image: str | None = Field(
        None,
        description="An image to edit: a PNG, JPEG or WebP file in base64, or a data: URL of it.",
    )
    mask: str | None = Field(
        None,
        description="What of the image to paint, as another of the same size: transparent pixels, or in an opaque mask "
        "white ones.",
    )
    class_id: int | None = Field(
        None,
        ge=0,
        description="Of a class-conditional model, in place of the prompt: the number of the class to paint.",
    )
    n: int = Field(1, ge=1, le=10, description="How many images; each has a seed of its own.")
    size: str | None = Field(
        None,
        max_length=32,
        description='Width and height in pixels, such as "512x512"; what the model paints.',
    )
    format: ImageFormat | None = Field(
        None, description="Of the image files; png when left out, or what the Accept header names."
    )
    quality: int | None = Field(
        None, ge=1, le=100, description="Of webp and jpeg; 90 when left out."
    )
    stream: bool = Field(
        False, description="Answer with server-sent events as the images are painted."
    )
    partial_images: int = Field(
        0,
        ge=0,
        le=3,
        description="Previews of each image in a stream: decoded from its coarser scales.",
    )

    @property
    def image_format(self) -> ImageFormat:
        """Format of the image files."""
        return self.format or "png"

    @model_validator(mode="before")
    @classmethod
    def _class_in_place_of_prompt(cls, data: Any) -> Any:
        """The number of a class is a prompt that a class-conditional model understands."""
        if isinstance(data, dict) and "prompt" not in data and data.get("class_id") is not None:
            return {**data, "prompt": str(data["class_id"])}
        return data

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        document = handler(schema)
        handler.resolve_ref_schema(document).pop("required")
        handler.resolve_ref_schema(document)["anyOf"] = [
            {"required": ["prompt"]},
            {"required": ["class_id"]},
        ]
        return document


class ImageData(BaseModel):
    """One finished image."""

    b64_json: str = Field(description="The image file in base64.")
    seed: int = Field(description="With which the same request paints it again.")


SAMPLED: dict[str, Any] = Sampling().model_dump()
"""The parameters of the examples."""


class GenerateResponse(BaseModel):
    """The finished images."""

    model_config = output_config(
        {
            "created": 1767225600,
            "model": "star-mini",
            "size": "512x512",
            "format": "png",
            "parameters": SAMPLED,
            "data": [{"b64_json": "iVBORw0KGgo=", "seed": 1}],
            "warnings": [],
        }
    )

    created: int = Field(description="Unix time in seconds.")
    model: str
    size: str
    format: ImageFormat
    parameters: dict[str, float | int | str] = Field(
        description="What the images were sampled with."
    )
    data: list[ImageData]
    warnings: list[str] = Field(
        description="Sentences, such as what of the prompt did not fit; mostly empty."
    )


class TokenDetails(BaseModel):
    """Tokens of text and of images."""

    text_tokens: int
    image_tokens: int


class Usage(BaseModel):
    """The tokens of one request, in OpenAI's words: the prompt's go in, the token maps' come out."""

    input_tokens: int
    input_tokens_details: TokenDetails
    output_tokens: int
    output_tokens_details: TokenDetails
    total_tokens: int

    @classmethod
    def of(cls, text_tokens: int, image_tokens: int, edited_tokens: int = 0) -> Self:
        """The usage of so many tokens of the prompt, of all images, and of the image that is edited."""
        return cls(
            input_tokens=text_tokens + edited_tokens,
            input_tokens_details=TokenDetails(text_tokens=text_tokens, image_tokens=edited_tokens),
            output_tokens=image_tokens,
            output_tokens_details=TokenDetails(text_tokens=0, image_tokens=image_tokens),
            total_tokens=text_tokens + edited_tokens + image_tokens,
        )


class ImageEvent(BaseModel):
    """What all events of a stream hold; the fields are OpenAI's, but for ``image_index``."""

    b64_json: str = Field(description="The image file in base64.")
    created_at: int = Field(description="Unix time in seconds.")
    size: str
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    output_format: ImageFormat
    image_index: int | None = Field(
        None, description="Which of several images; absent when there is one."
    )


class PartialImageEvent(ImageEvent):
    """An image as it is after an early scale."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    partial_image_index: int = Field(description="Previews of this image that came before.")


class CompletedEvent(ImageEvent):
    """A finished image; all but its usage is this server's own."""

    type: Literal["image_generation.completed", "image_edit.completed"]
    usage: Usage
    seed: int = Field(description="With which the same request paints it again.")
    model: str
    parameters: dict[str, float | int | str] = Field(description="What the image was sampled with.")
    warnings: list[str]


class ErrorDetail(BaseModel):
    """What went wrong and what to do."""

    message: str
    type: str
    param: str | None = Field(description="The field that caused it.")
    code: str


class ErrorResponse(BaseModel):
    """Every error, of every endpoint."""

    error: ErrorDetail


_CARD: dict[str, Any] = {
    "id": "star-mini",
    "object": "model",
    "created": 1767225600,
    "owned_by": "star",
    "size": "512x512",
    "scales": [1, 2, 3, 4, 5, 6, 8, 10, 13, 16],
    "parameters": 34_000_000,
    **SAMPLED,
    "device": "cpu",
    "dtype": "float32",
    "mode": "deterministic",
    "description": "One object on a plain background.",
    "examples": ["a red apple on a blue background"],
    "num_classes": 0,
}


class ModelCard(BaseModel):
    """The loaded model; the first four fields are OpenAI's."""

    model_config = output_config(_CARD)

    id: str
    object: str = "model"
    created: int
    owned_by: str = "star"
    size: str
    scales: list[int] = Field(description="Side of each scale's token map.")
    parameters: int
    guidance_scale: float = Field(description="Default, like the next three.")
    top_k: int
    top_p: float
    smooth_scales: int
    device: str
    dtype: str
    mode: str
    description: str = Field(description="What it draws, in sentences; may be empty.")
    examples: list[str] = Field(description="Prompts that it draws well.")
    num_classes: int = Field(
        description="Of a class-conditional model, whose prompts are names of ImageNet classes; 0 for any other."
    )


class ModelList(BaseModel):
    """OpenAI's list of models."""

    model_config = output_config({"object": "list", "data": [_CARD]})

    object: str = "list"
    data: list[ModelCard]
