"""OpenAPI documentation of the endpoints' answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from server.api.schemas import CompletedEvent, ErrorResponse, PartialImageEvent
from server.api.streaming import EventKind
from server.batches.errors import BatchesOff, BatchLimit, BatchStoreFailed
from server.errors import (
    DeadlineExceeded,
    Draining,
    EngineDead,
    HeaderTooLarge,
    HostNotAllowed,
    InternalError,
    InvalidApiKey,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    ModerationBlocked,
    NotAcceptable,
    NotFound,
    OriginNotAllowed,
    Overloaded,
    QueueFull,
    RangeNotSatisfiable,
    RateLimitExceeded,
    RequestTimeout,
    RequestTooLarge,
    ServerError,
    TooManyUploads,
    UnsupportedMediaType,
)
from server.images.encode import FORMATS


def reference(model: type[BaseModel]) -> str:
    """Return the reference to a model's schema in the OpenAPI document."""
    return f"#/components/schemas/{model.__name__}"


IMAGE_FILES = {
    media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in FORMATS
}
"""The ``content`` of an answer that is an image file."""

STREAM_EVENTS = (PartialImageEvent, CompletedEvent, ErrorResponse)
"""Models of an event's data; an error is the last event of its stream."""


def event_stream(kind: EventKind) -> dict[str, Any]:
    """Return the ``content`` of an answer that is a stream."""
    completed = f"{kind}.completed"
    return {
        "text/event-stream": {
            # The schema of one event, as OpenAPI 3.2 describes streams.
            "schema": {
                "type": "object",
                "required": ["data"],
                "properties": {
                    "event": {"enum": [f"{kind}.partial_image", completed]},
                    "data": {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": {
                            "anyOf": [{"$ref": reference(model)} for model in STREAM_EVENTS]
                        },
                    },
                },
            },
            "example": f"event: {completed}\n"
            f'data: {{"type": "{completed}", "b64_json": "iVBORw0KGgo=", "seed": 1}}\n\n',
        }
    }


def request_body(models: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """Return the ``requestBody`` of a route that reads its body itself: a model for each media type."""
    content = {kind: {"schema": {"$ref": reference(model)}} for kind, model in models.items()}
    return {"requestBody": {"required": True, "content": content}}


EVENT_STREAM = event_stream("image_generation")
"""The ``content`` of an answer that is a stream of new images."""


def _header(description: str, kind: str = "number") -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


_RATE_LIMITS = {
    f"x-ratelimit-{what}-{noun}": _header(text.format(noun), kind)
    for noun in ("requests", "images")
    for what, text, kind in (
        ("limit", "The caller's {} a minute; absent without a limit.", "integer"),
        ("remaining", "The caller's {} that are left now; absent without a limit.", "integer"),
        ("reset", "Time until all {} of a minute are left again, such as `4.000s`.", "string"),
    )
}

TIMES = {
    "x-request-id": _header("Id of the request: its own `x-request-id`, or a new one.", "string"),
    "x-queue-time": _header("Seconds that the request waited for a slot; absent from a stream."),
    "x-inference-time": _header(
        "Seconds from the first slot to the last image; absent from a stream."
    ),
    "x-total-time": _header("Seconds until the answer began."),
    "traceparent": _header(
        "The request's span (W3C Trace Context), if the server records traces.", "string"
    ),
    **_RATE_LIMITS,
}
"""The ``headers`` of an answer with images."""

_DESCRIPTIONS = {
    400: "A field is missing, unknown, of the wrong type or out of range, and `param` names it; or the safety check "
    "refuses it.",
    401: "The API key is missing, wrong or expired.",
    403: "A page of another site has sent the request, or `Host` is not a name of this server.",
    404: "There is no such path, model, image, file or batch.",
    406: "The Accept header allows none of the media types that this endpoint answers with.",
    408: "The header or the body came too slowly; the connection is closed.",
    413: "The body is too long.",
    415: "The body is not sent with the content type that this endpoint reads.",
    416: "The file has none of the bytes that the Range header names.",
    429: "The queue is full, or the caller has used up its limit per minute or its share of the room for bodies or "
    "files; `Retry-After` says when to try again, if that helps.",
    431: "The header is too long, or has too many lines; the connection is closed.",
    500: "The server failed.",
    503: "The model is loading, the server is shutting down or overloaded, or its engine or image store has failed.",
    504: "The request's deadline passed.",
}
_EXAMPLES: dict[int, tuple[ServerError, ...]] = {
    400: (
        InvalidRequest("n must be an integer from 1 to 10; got 11.", param="n"),
        ModerationBlocked("input", ["violence"]),
    ),
    401: (InvalidApiKey("This server needs an API key; send it as Authorization: Bearer <key>."),),
    403: (
        OriginNotAllowed(
            "Pages of https://example.com may not call this server; add the origin to the setting cors_origins to let "
            "them."
        ),
        HostNotAllowed(
            "This server does not answer to the host example.com; if it is one of its names, add it to the setting "
            "allowed_hosts."
        ),
    ),
    404: (
        NotFound("There is nothing at GET /nothing. GET /docs lists all endpoints."),
        ModelNotFound('This server has no model "dall-e-3"; it has star-mini.', param="model"),
        BatchesOff(
            "This server keeps no files and works at no batches; to turn both on, set batch_store."
        ),
    ),
    406: (
        NotAcceptable(
            "Accept must allow image/png, image/webp, image/jpeg; it is text/css.", param="accept"
        ),
    ),
    408: (RequestTimeout("The request body came too slowly: 12 bytes in 30 s."),),
    413: (
        RequestTooLarge(
            "The request body is longer than the 1,048,576 bytes allowed; shorten the text, shrink the image, or "
            "split the file."
        ),
    ),
    415: (
        UnsupportedMediaType(
            "The body must be sent with content-type: application/json, not text/plain."
        ),
    ),
    416: (
        RangeNotSatisfiable(
            "The file has 312,000 bytes; the Range header asks for others.", 312_000
        ),
    ),
    429: (
        QueueFull("The queue is full: 72 images are in flight and 72 may be. Try again in 9 s."),
        RateLimitExceeded("The limit of 60 images per minute is reached. Try again in 4 s."),
        TooManyUploads(
            "Your requests under way hold as many bytes as one caller may; send fewer at once."
        ),
        BatchLimit("You have 20 unfinished batches, and no more are allowed; wait for one to end."),
    ),
    431: (HeaderTooLarge("The header of a request may have 65,536 bytes and 256 lines at most."),),
    500: (InternalError("The server failed to handle this request; its log says why."),),
    503: (
        ModelLoading("The model is still loading; try again soon."),
        Draining("The server is shutting down; send the request to another one."),
        EngineDead("The engine failed while it worked on this request; try again."),
        BatchStoreFailed("The server cannot reach its store of files and batches at the moment."),
        Overloaded("The server has as many connections as it can hold; try again soon."),
    ),
    504: (DeadlineExceeded("The request's deadline passed in the queue; raise timeout_s."),),
}
_RETRY_AFTER = {"retry-after": _header("Seconds after which trying again may help.", "integer")}


BEFORE_ROUTES = (403, 408, 413, 431)
"""Statuses of refusals that come before any route, and so on all of them."""


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a route for these statuses, with an example of each error."""
    return {
        status: {
            "model": ErrorResponse,
            "description": _DESCRIPTIONS[status],
            "content": {
                "application/json": {
                    "examples": {
                        error.code: {"value": error.envelope()} for error in _EXAMPLES[status]
                    }
                }
            },
            **({"headers": _RETRY_AFTER} if status == 503 else {}),
            **({"headers": _RETRY_AFTER | _RATE_LIMITS} if status == 429 else {}),
        }
        for status in statuses
    }
