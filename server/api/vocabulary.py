"""What a model can draw: its vocabulary, its gallery, and how it reads a prompt, without drawing it."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from server.api.context import AppContext, Context
from server.api.deadline import before_deadline
from server.api.disconnect import unless_disconnected
from server.api.jobs import timeout_of
from server.api.model_names import engine_of
from server.api.responses import error_responses
from server.api.schemas import GenerateRequest, Prompt, input_config, output_config
from server.dispatch.engine_client import EngineClient
from server.errors import EngineDead, NotFound, QueueFull, UnknownThing
from server.http.json_body import BodyRoute
from server.messages import ModelInfo
from server.settings import OnUnknown
from star_model.reading import Reading, cannot_draw
from star_model.vocabulary import Vocabulary

router = APIRouter(tags=["images"], route_class=BodyRoute)


class Thing(BaseModel):
    """A thing that the model draws."""

    name: str = Field(description="Phrase to name it by in a prompt.")
    also: list[str] = Field(description="Its other names.")
    kind: str | None = Field(description="What sort of thing it is, if that has a name.")


class Backdrop(BaseModel):
    """A place that the model draws behind a thing."""

    name: str
    phrase: str = Field(description='Its words in a prompt, such as "in a forest".')


_VOCABULARY: dict[str, Any] = {
    "model": "star-mini",
    "things": [{"name": "a car", "also": ["an automobile"], "kind": "vehicle"}],
    "styles": ["cartoon", "3d", "flat"],
    "colours": ["white", "light blue"],
    "backdrops": [{"name": "forest", "phrase": "in a forest"}],
    "max_things": 1,
}


class VocabularyResponse(BaseModel):
    """All that a model can draw."""

    model_config = output_config(_VOCABULARY)

    model: str
    things: list[Thing]
    styles: list[str]
    colours: list[str] = Field(description="Of plain backgrounds.")
    backdrops: list[Backdrop]
    max_things: int = Field(description="Number of things that it draws in one image.")


class ReadRequest(BaseModel):
    """A prompt to be read."""

    model_config = input_config({"prompt": "a blue apple on the moon"})

    prompt: Prompt = Field(description="Description of the image.")
    model: str | None = Field(
        None, max_length=256, description="Model that reads it; the first one when left out."
    )


class ReadResponse(BaseModel):
    """A prompt as the model draws it."""

    model_config = output_config(
        {
            "drawn": "a red apple",
            "things": ["a red apple"],
            "style": None,
            "background": None,
            "unknown": None,
            "refused": None,
            "notes": ['Things are drawn in their own colours: "blue" was left out.'],
            "suggestions": [],
        }
    )

    drawn: str = Field(
        description="Prompt for what is drawn: the given one if all of it is understood."
    )
    things: list[str] = Field(
        description="Things that are drawn; empty for a model that takes any prompt."
    )
    style: str | None = Field(description="Style that was asked for; null leaves it to the model.")
    background: str | None = Field(
        description="Background that was asked for; null leaves it to the model."
    )
    unknown: str | None = Field(
        description="What was asked for and nothing that the model knows is like; null if there is none."
    )
    refused: str | None = Field(
        description="Why nothing may be drawn for it, not even the nearest thing; null if that may."
    )
    notes: list[str] = Field(
        description="Sentences about what is drawn otherwise than it was asked for; usually empty."
    )
    suggestions: list[str] = Field(description="Up to three prompts to try instead.")


class Picture(BaseModel):
    """A picture that the model painted ahead."""

    prompt: str
    seed: int = Field(description="Seed with which the prompt generates this image again, larger.")
    b64_json: str = Field(description="A small WebP file in base64.")


class GalleryResponse(BaseModel):
    """Pictures that show what the model does."""

    model_config = output_config(
        {"data": [{"prompt": "a fox, flat style", "seed": 1, "b64_json": "UklGRg=="}]}
    )

    data: list[Picture]


# A name may be that of a repository on the hub, with a slash in it.
@router.get(
    "/v1/models/{model:path}/vocabulary",
    summary="What the model can draw",
    responses=error_responses(404, 500, 503),
    operation_id="listVocabulary",
)
async def vocabulary(model: str, context: AppContext) -> VocabularyResponse:
    """List the things, styles and backgrounds of a model that knows few; 404 for one that takes any prompt."""
    loaded = engine_of(model, context).model
    if loaded.vocabulary is None:
        raise NotFound(f"{loaded.name} has no vocabulary: it takes any prompt.")
    return _listed(loaded.name, loaded.vocabulary)


@router.get(
    "/v1/models/{model:path}/gallery",
    summary="Pictures that the model painted",
    responses=error_responses(404, 500, 503),
    operation_id="listGallery",
)
async def gallery(model: str, context: AppContext) -> GalleryResponse:
    """List small pictures that the model painted ahead, with their prompts and seeds; empty if it ships none."""
    return GalleryResponse(
        data=[
            Picture(
                prompt=picture.prompt,
                seed=picture.seed,
                b64_json=base64.b64encode(picture.image).decode("ascii"),
            )
            for picture in engine_of(model, context).model.gallery
        ]
    )


@router.post(
    "/read",
    summary="How the model reads a prompt",
    responses=error_responses(400, 404, 413, 415, 429, 500, 503),
    operation_id="readPrompt",
)
async def read(body: ReadRequest, context: AppContext) -> ReadResponse:
    """Say what the model would draw of a prompt, and what it would leave out, without drawing it."""
    with engine_of(body.model, context).held() as engine:
        reading = await reading_of(body.prompt, engine)
    return ReadResponse(
        drawn=reading.prompt,
        things=list(reading.things),
        style=reading.style or None,
        background=reading.background or None,
        unknown=reading.unknown or None,
        refused=reading.refused or None,
        notes=list(reading.notes),
        suggestions=list(reading.suggestions),
    )


async def reading_of(prompt: str, engine: EngineClient) -> Reading:
    """Return how the loaded model reads a prompt; one without a vocabulary takes it as it stands.

    Raises:
        QueueFull: too many prompts are being read.
        EngineDead: the worker that was asked has ended.
    """
    if engine.model.vocabulary is None:
        return Reading(prompt)
    return await engine.workers.readings.read(prompt)


async def require_thing(
    request: Request,
    body: GenerateRequest,
    context: Context,
    engine: EngineClient,
    default: OnUnknown,
) -> None:
    """Refuse a prompt for what the model cannot draw, unless the nearest thing is wanted and may stand for it.

    Args:
        request: the HTTP request.
        body: what it asks for.
        context: of the app.
        engine: of the model that is to paint it.
        default: what is done if the request does not say.

    Raises:
        UnknownThing: the prompt is refused.
        Unavailable: it cannot be read right now, and what is unknown in it is to be refused.
    """
    wanted = body.on_unknown or default
    reading = before_deadline(
        timeout_of(body, context.settings), reading_of(body.prompt, engine), "its prompt was read"
    )
    try:
        read = await unless_disconnected(request, reading, "read prompt")
    except (QueueFull, EngineDead):
        if wanted == "nearest":  # the worker reads it again before it paints
            return
        raise
    if read.refused or (read.unknown and wanted != "nearest"):
        raise _refusal(read, engine.model)


def _refusal(reading: Reading, model: ModelInfo) -> UnknownThing:
    """Return the error for a prompt that asks for what the model cannot draw."""
    nearest = 'set on_unknown to "nearest" to draw the nearest thing that it knows'
    return UnknownThing(
        cannot_draw(model.name, reading, nearest),
        param="prompt",
        suggestions=reading.suggestions,
    )


def _listed(name: str, known: Vocabulary) -> VocabularyResponse:
    kinds = {thing: kind for kind, things in known.kinds.items() for thing in things}
    return VocabularyResponse(
        model=name,
        things=[
            Thing(name=thing, also=list(also), kind=kinds.get(thing))
            for thing, also in known.names.items()
        ],
        styles=list(known.styles),
        colours=list(known.colours),
        backdrops=[Backdrop(name=n, phrase=said[0]) for n, said in known.backdrops.items()],
        max_things=known.max_things,
    )
