"""A request of a batch, on the way that requests over HTTP take: the same checks, defaults, hook and limits."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime

import structlog
from starlette.requests import Request
from starlette.types import Message, Scope

from server.api.context import Context
from server.api.openai_images import respond
from server.api.openai_requests import OpenAIRequest, read_edit, read_generation
from server.batches.run import LineRequest
from server.errors import ClientClosed, InvalidApiKey, InvalidRequest, ServerError
from server.http.request_log import RequestRecord
from server.messages import BATCH

_SPARE_SECONDS = 60.0
"""After its end a batch gives up its requests itself; only then would their own deadline pass."""


async def serve_line(context: Context, asked: LineRequest) -> bytes:
    """Answer a request of a batch, in the class that waits for all others.

    Args:
        context: of the app, with the limits of batches.
        asked: the request.

    Returns:
        the body of the answer.

    Raises:
        ServerError: it is refused, or has failed.
    """
    record = RequestRecord(asked.request_id, method="POST")
    started = time.monotonic()
    try:
        _use_key(record, asked.owner, context)
        return await _answer(_within(context, asked.seconds), _request(asked, record), asked)
    except ServerError as error:
        record.fail(error)
        raise
    except asyncio.CancelledError:
        record.fail(ClientClosed("The batch was left."))
        raise
    finally:
        structlog.get_logger("star.request").info(
            "batch request",
            request_id=record.request_id,
            outcome=record.outcome,
            duration_s=round(time.monotonic() - started, 4),
            **{name: getattr(record, name) for name in ("code", "param") if record.code},
            **record.details,
        )


def _use_key(record: RequestRecord, owner: str, context: Context) -> None:
    """Have a request count against the limits that the key of its batch has now.

    Raises:
        InvalidApiKey: the key is no longer valid, and so its batches are not either.
    """
    record.tenant = owner
    if context.keys.ring:
        keys = [key for key in context.keys.ring.keys.values() if key.name == owner]
        valid = [key for key in keys if not key.expired(datetime.now(UTC))]
        if not valid:
            raise InvalidApiKey(
                "The API key that made the batch is no longer valid; make another batch with one that is."
            )
        record.use_key(valid[0])
    record.priority = BATCH  # whatever the class of its key


def _within(context: Context, seconds: float) -> Context:
    """Return the context of a request that has until the end of its batch, and whose answer is read after that."""
    settings = context.settings
    left = seconds + _SPARE_SECONDS
    return replace(
        context,
        settings=settings.model_copy(
            update={
                "default_timeout_s": left,
                "max_timeout_s": max(left, settings.max_timeout_s),
                "default_response_format": "b64_json",
            }
        ),
    )


def _request(asked: LineRequest, record: RequestRecord) -> Request:
    """Return the request as it would have come over HTTP; its client never leaves."""
    scope: Scope = {
        "type": "http",
        "method": record.method,
        "path": asked.endpoint,
        "raw_path": asked.endpoint.encode("ascii"),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "path_params": {},
        "client": (asked.owner or "batches", 0),
        "state": {"record": record},
    }
    messages: list[Message] = [{"type": "http.request", "body": asked.body, "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    return Request(scope, receive)


async def _answer(context: Context, request: Request, asked: LineRequest) -> bytes:
    edit = asked.endpoint == "/v1/images/edits"
    read = await (read_edit if edit else read_generation)(request, context.settings)
    _check(read)
    answer = await respond(request, read, context)
    return bytes(answer.body)


def _check(read: OpenAIRequest) -> None:
    """Refuse what an answer that is read later cannot be.

    Raises:
        InvalidRequest: naming the field.
    """
    if read.body.stream:
        raise InvalidRequest(
            "stream must be false in a batch: its results come as a file.", param="stream"
        )
    if read.body.response_format == "url":
        raise InvalidRequest(
            'response_format must be "b64_json" in a batch: a URL would no longer be valid when the results are read.',
            param="response_format",
        )
