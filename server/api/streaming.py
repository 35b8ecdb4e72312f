"""A request's images as server-sent events, in the shape of OpenAI's images API.

A partial image is decoded from the scales done so far. A slow client loses previews, never a finished image; the
slots of a client that disconnects are freed.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from server.api.context import Context
from server.api.image_file import deliver_file
from server.api.schemas import CompletedEvent, GenerateRequest, PartialImageEvent, Usage
from server.api.warnings_header import warnings_header
from server.dispatch.ticket import Ticket
from server.errors import ClientClosed, InternalError, ServerError
from server.http.request_log import RequestRecord
from server.messages import Painted, Preview

EventKind = Literal["image_generation", "image_edit"]
"""Prefix of the events' names; OpenAI has one for each endpoint."""

_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def usage_of(ticket: Ticket, images: int) -> Usage:
    """Return the usage of this many images of a request, in tokens."""
    tokens = ticket.shape.tokens
    edited = tokens if ticket.job.edit is not None else 0
    return Usage.of(ticket.text_tokens, tokens * images, edited)


class ImageStream(EventSourceResponse):
    """Streams the images of one request.

    Args:
        context: of the app.
        body: how the images are to be delivered.
        ticket: of the request; left when the stream ends, however it ends.
        record: of the request.
        kind: of the events.
        notes: warnings about the request itself.
    """

    def __init__(
        self,
        context: Context,
        body: GenerateRequest,
        ticket: Ticket,
        record: RequestRecord,
        kind: EventKind,
        notes: Sequence[str] = (),
    ) -> None:
        self._context = context
        self._body = body
        self._ticket = ticket
        self._record = record
        self._kind = kind
        self._notes = notes
        super().__init__(self._events(), headers=_HEADERS | warnings_header(notes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._ticket as ticket:
            try:
                await super().__call__(scope, receive, send)
            finally:
                self._record.details |= ticket.times
                if not ticket.over:
                    self._record.fail(ClientClosed("The client disconnected."))

    async def _events(self) -> AsyncIterator[bytes]:
        silence = self._context.settings.stream_comment_s
        try:
            async for event in self._ticket.events(silence):
                match event:
                    case None:
                        yield format_sse_event(comment="keep-alive")
                    case Preview():
                        yield _format(await self._partial(event))
                    case Painted():
                        yield _format(await self._completed(event))
        except ServerError as error:
            self._ticket.fail(error)
            self._record.fail(error)
            yield format_sse_event(data_str=json.dumps(error.envelope()))
        except Exception:
            failure = InternalError("The server failed in mid-stream; its log says why.")
            self._ticket.fail(failure)
            self._record.fail(failure)
            yield format_sse_event(data_str=json.dumps(failure.envelope()))
            raise

    async def _partial(self, event: Preview) -> PartialImageEvent:
        fields = await self._fields(event, "partial_image")
        return PartialImageEvent(**fields, partial_image_index=event.index)

    async def _completed(self, event: Painted) -> CompletedEvent:
        fields, ticket = await self._fields(event, "completed"), self._ticket
        return CompletedEvent(
            **fields,
            usage=usage_of(ticket, 1),
            seed=ticket.job.seeds[event.image],
            model=ticket.model.name,
            dtype=ticket.model.dtype,
            parameters=ticket.job.parameters,
            warnings=[*self._notes, *ticket.warnings],
        )

    async def _fields(self, event: Preview | Painted, name: str) -> dict[str, Any]:
        """Return the fields that both kinds of event have."""
        body, ticket = self._body, self._ticket
        data = await deliver_file(self._context, body, ticket, event, self._record.request_id)
        return {
            "type": f"{self._kind}.{name}",
            "b64_json": base64.b64encode(data).decode("ascii"),
            "created_at": int(time.time()),
            "size": ticket.shape.size,
            "output_format": body.image_format,
            "image_index": event.image if len(ticket.job.seeds) > 1 else None,
        }


def _format(event: PartialImageEvent | CompletedEvent) -> bytes:
    return format_sse_event(event=event.type, data_str=event.model_dump_json(exclude_none=True))
