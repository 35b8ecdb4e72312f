"""Request and response bodies, as OpenAPI documents them. Types are strict: ``"4"`` is not a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

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

from server.api.capabilities import ServedCapabilities
from server.api.foreign_fields import INSTEAD
from server.images.encode import ImageFormat
from server.images.mask import MaskKind
from server.sampling import SamplingOverrides
from server.settings import MetadataLevel, OnUnknown
from star_model.sampling import Sampling, Seed

Prompt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000),
    Field(json_schema_extra={"pattern": r"\S"}),  # trimmed before its length is checked
]
NegativePrompt = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)]

WHITE_PNG = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAAD0lEQVR4nGP8z8DEQAICADIBAR9ZTeQQAAAAAElFTkSuQmCC"
"""A file of 16 x 16 white pixels in base64, for examples."""


def input_config(*examples: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a request body: strict types, no unknown fields, finite numbers."""
    return ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={"examples": list(examples)},
    )


class PromptField(BaseModel):
    """The first field of a request."""

    prompt: Prompt = Field(description="Description of the image.")


def output_config(example: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a response body."""
    return ConfigDict(json_schema_extra={"examples": [example]})


class SamplingFields(SamplingOverrides):
    """Fields of every request for images. A field that is left out takes the model's default."""

    model_config = input_config()

    negative_prompt: NegativePrompt | None = Field(
        None, description="Text that guidance leads away from."
    )
    seed: Seed | None = Field(
        None,
        description="Seed of the first image; each further image takes the next number, wrapping at 2^32. "
        "Random when left out; the answer states it either way.",
    )
    metadata: MetadataLevel | None = Field(
        None,
        description='Text in the image files: "full" is their origin, prompt and parameters, "provenance" the origin '
        'alone. "none" is refused unless it is the server\'s setting, which is also the default.',
    )
    timeout_s: float | None = Field(
        None, gt=0, le=86_400, description="Give up after this many seconds, queueing included."
    )

    @property
    def sampling(self) -> dict[str, Any]:
        """Return these fields as they were given, to build a request of another form."""
        return {name: getattr(self, name) for name in SamplingFields.model_fields}


class EditFields(BaseModel):
    """Fields that say how the uploaded image is edited."""

    keep_scales: int | None = Field(
        None,
        ge=0,
        description="Number of scales, coarsest first, taken from the image instead of being generated: 0 keeps "
        "nothing of its layout, the model's number of scales keeps the image as the model encodes it. With a mask, it "
        "applies inside the mask, whose content is discarded when this is left out. Without a mask, half of the scales "
        "are kept when this is left out.",
    )
    place: str | None = Field(
        None,
        max_length=100,
        description="Generate the surroundings of the image: the left, top, right and bottom edge of its place "
        'on the canvas, as fractions, such as "0.25,0.25,0.75,0.75".',
    )
    focus: bool | None = Field(
        None,
        description="Generate a small masked part at the model's full resolution, in a window around it; the prompt "
        "then describes only that part. true when left out. With false, the whole image is generated and the part is "
        "taken from it; the prompt then describes the whole image.",
    )
    feather: bool | None = Field(
        None,
        description="Blend into the generated part over a few pixels inside the mask; true when left out.",
    )
    mask_kind: MaskKind | None = Field(
        None,
        description='Pixels of the mask that mark the part to generate: its transparent ones ("alpha") or its white '
        'ones ("luminance"). When left out, the mask itself tells, or is refused if it does not.',
    )

    @property
    def editing(self) -> dict[str, Any]:
        """Return these fields as they were given, to build a request of another form."""
        return {name: getattr(self, name) for name in EditFields.model_fields}


class GenerateRequest(EditFields, SamplingFields, PromptField):
    """A request for images. A field that is left out takes the model's default."""

    instead: ClassVar[Mapping[str, str]] = INSTEAD

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
        description="The part of the image to generate, as an image of the same size: its transparent pixels or, in an "
        "opaque mask, its white pixels.",
    )
    class_id: int | None = Field(
        None,
        ge=0,
        description="Number of the class to generate, in place of the prompt; for class-conditional models.",
    )
    on_unknown: OnUnknown | None = Field(
        None,
        description='What a model that knows few things does when the prompt asks for another: "suggest" refuses it '
        'and names three prompts to try, "nearest" draws the nearest thing, with a warning; the server\'s setting when '
        "left out.",
    )
    model: str | None = Field(
        None,
        max_length=256,
        description="Name of the model that paints, of those that /v1/models lists; the first one when left out.",
    )
    n: int = Field(1, ge=1, le=10, description="Number of images; each has a seed of its own.")
    size: str | None = Field(
        None,
        max_length=32,
        description='Width and height in pixels, such as "512x512"; one of the sizes that the model generates, which '
        "/v1/models lists. When left out, the first of them; for an edit, the one with the shape of the image.",
    )
    aspect_ratio: str | None = Field(
        None,
        pattern=r"^([1-9]\d{0,3}(\.\d{1,4})?):([1-9]\d{0,3}(\.\d{1,4})?)$",
        description='Width to height, such as "16:9", in place of size: the model\'s size of the nearest ratio.',
    )
    format: ImageFormat | None = Field(
        None,
        description="Format of the image files; when left out, the one that the Accept header names, or else png.",
    )
    quality: int | None = Field(
        None, ge=1, le=100, description="Quality of webp and jpeg files; 90 when left out."
    )
    stream: bool = Field(
        False, description="Answer with server-sent events while the images are generated."
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
        """Use the number of a class as the prompt, which a class-conditional model understands."""
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
    seed: int = Field(description="Seed with which the same request generates this image again.")


SAMPLED: dict[str, Any] = Sampling().model_dump()
"""Sampling parameters in the examples."""


_DTYPE = Field(
    description="Type of the transformer's weights: another may give another image of the same seed."
)


class GenerateResponse(BaseModel):
    """The finished images."""

    model_config = output_config(
        {
            "created": 1767225600,
            "model": "star-mini",
            "dtype": "float32",
            "size": "512x512",
            "format": "png",
            "parameters": SAMPLED,
            "data": [{"b64_json": "iVBORw0KGgo=", "seed": 1}],
            "warnings": [],
        }
    )

    created: int = Field(description="Unix time in seconds.")
    model: str
    dtype: str = _DTYPE
    size: str
    format: ImageFormat
    parameters: dict[str, float | int | str] = Field(
        description="Parameters that the images were sampled with."
    )
    data: list[ImageData]
    warnings: list[str] = Field(
        description="Sentences for the caller, such as which part of the prompt was cut off; usually empty."
    )


class TokenDetails(BaseModel):
    """Tokens of text and of images."""

    text_tokens: int
    image_tokens: int


class Usage(BaseModel):
    """The tokens of one request, in OpenAI's terms: the prompt's are input, the token maps' are output."""

    input_tokens: int
    input_tokens_details: TokenDetails
    output_tokens: int
    output_tokens_details: TokenDetails
    total_tokens: int

    @classmethod
    def of(cls, text_tokens: int, image_tokens: int, edited_tokens: int = 0) -> Self:
        """Return the usage, given the tokens of the prompt, of all images, and of the image that is edited."""
        return cls(
            input_tokens=text_tokens + edited_tokens,
            input_tokens_details=TokenDetails(text_tokens=text_tokens, image_tokens=edited_tokens),
            output_tokens=image_tokens,
            output_tokens_details=TokenDetails(text_tokens=0, image_tokens=image_tokens),
            total_tokens=text_tokens + edited_tokens + image_tokens,
        )


class ImageEvent(BaseModel):
    """Fields of all events of a stream; they are OpenAI's, except for ``image_index``."""

    b64_json: str = Field(description="The image file in base64.")
    created_at: int = Field(description="Unix time in seconds.")
    size: str
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    output_format: ImageFormat
    image_index: int | None = Field(
        None, description="Index of the image, from 0; absent when there is only one."
    )


class PartialImageEvent(ImageEvent):
    """An unfinished image, decoded after an early scale."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    partial_image_index: int = Field(
        description="Number of previews of this image before this one."
    )


class CompletedEvent(ImageEvent):
    """A finished image; of the fields below, only the usage is OpenAI's."""

    type: Literal["image_generation.completed", "image_edit.completed"]
    usage: Usage
    seed: int = Field(description="Seed with which the same request generates this image again.")
    model: str
    dtype: str = _DTYPE
    parameters: dict[str, float | int | str] = Field(
        description="Parameters that the image was sampled with."
    )
    warnings: list[str]


class ModerationDetail(BaseModel):
    """What the safety check of the server refused."""

    moderation_stage: Literal["input", "output"] = Field(
        description="The request itself, or an image that was generated for it."
    )
    categories: list[str] = Field(description="What was found, in the words of the check.")


class ErrorDetail(BaseModel):
    """An error and what to do about it."""

    message: str
    type: str
    param: str | None = Field(description="The field that caused it, if any.")
    code: str
    suggestions: list[str] = Field(
        default_factory=list, description="Prompts to try instead; only of `unknown_thing`."
    )
    moderation_details: ModerationDetail | None = Field(
        None, description="What was refused and why; only of `moderation_blocked`."
    )


class ErrorResponse(BaseModel):
    """The body of every error, of every endpoint."""

    error: ErrorDetail


_CARD: dict[str, Any] = {
    "id": "star-mini",
    "object": "model",
    "created": 1767225600,
    "owned_by": "star",
    "alias_of": None,
    "size": "512x512",
    "sizes": ["512x512"],
    "scales": [1, 2, 4, 8, 16, 16, 16],
    "parameters": 58_000_000,
    **SAMPLED,
    "device": "cpu",
    "dtype": "float32",
    "mode": "deterministic",
    "description": "Draws one thing on a plain colour or in a scene.",
    "examples": ["a red apple on a blue background"],
    "num_classes": 0,
    "num_things": 120,
    "license": "Apache-2.0",
    "capabilities": {
        "prompt": "text",
        "vocabulary": True,
        "editing": True,
        "guidance": "rising",
        "negative_prompt": True,
        "aspect_ratios": ["1:1"],
        "max_draft": 2,
        "previews": True,
    },
}


class _OpenAIModel(BaseModel):
    """The fields of OpenAI's model object."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "star"


class ModelCard(Sampling, _OpenAIModel):
    """The loaded model: OpenAI's fields, the model's sampling defaults, and facts about it."""

    model_config = output_config(_CARD)

    alias_of: str | None = Field(
        description="Name of the loaded model, where `id` is another name for it."
    )
    size: str = Field(description="Width and height of its images, if a request names no other.")
    sizes: list[str] = Field(description="All sizes of images that it makes, the default first.")
    scales: list[int] = Field(description="Side of each scale's token map, of a square image.")
    parameters: int
    device: str
    dtype: str
    mode: str
    description: str = Field(description="Sentences about what the model draws; may be empty.")
    examples: list[str] = Field(description="Prompts that the model draws well.")
    num_classes: int = Field(
        description="Number of classes of a class-conditional model, whose prompts are names of ImageNet "
        "classes; 0 for any other."
    )
    num_things: int | None = Field(
        description="Number of things that a model with a small vocabulary knows; null for one that takes any prompt."
    )
    license: str | None = Field(
        description="Licence of the weights, as an SPDX identifier such as `Apache-2.0`; null if their publisher "
        "states none, or it is not known."
    )
    capabilities: ServedCapabilities = Field(description="What requests for it may have.")


class ModelList(BaseModel):
    """OpenAI's list of models."""

    model_config = output_config({"object": "list", "data": [_CARD]})

    object: str = "list"
    data: list[ModelCard]
