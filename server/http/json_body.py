"""JSON request bodies: bounded before anything reads them, refused where a field is given twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from server.errors import (
    InvalidRequest,
    ServerError,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from server.http.request_guard import BodyRefused
from server.validation import complaints, shorten

_MOST_VALUES = 70_000
"""Commas and opening brackets of a body at most: the longest prompts may consist of nothing else."""

_MOST_FIELDS = 200
"""Names in one object at most, several times what any request has."""

_DEEPEST = 32
"""Objects and lists inside each other at most."""

_QUICK_BYTES = 64 << 10
"""Length of a body up to which it is parsed on the event loop; a thread would cost more."""

_UNREADABLE = "The request body cannot be read; send a JSON object in UTF-8."


def parse_json(body: bytes) -> Any:
    """Parse a body. Its cost is bounded first.

    Raises:
        InvalidRequest: the body is not JSON in UTF-8, holds too many or too deeply nested values, or names a field
            twice.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise InvalidRequest(
            f"The request body cannot be read: it holds more than {_MOST_VALUES:,} values."
        )
    try:
        value = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_fields)
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"The request body is not valid JSON: {error.msg} at character {error.pos}."
        ) from error
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:  # not UTF-8, a number of many digits
        raise InvalidRequest(_UNREADABLE) from error
    _check_depth(value)
    return value


async def read_json(body: bytes) -> Any:
    """Parse a body as :func:`parse_json` does, a large one in a thread, so that the event loop goes on."""
    if len(body) <= _QUICK_BYTES:
        return parse_json(body)
    return await asyncio.to_thread(parse_json, body)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [inner for outer in level for inner in _values(outer)]
        if not level:
            return
    raise _too_deep()


def _values(outer: Any) -> Iterable[Any]:
    """Return what a list or an object holds; nothing for any other value."""
    match outer:
        case dict():
            return outer.values()
        case list():
            return outer
    return ()


def _too_deep() -> InvalidRequest:
    return InvalidRequest(
        f"The request body cannot be read: its values are nested more than {_DEEPEST} deep."
    )


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of the body, given its names and values."""
    if len(pairs) > _MOST_FIELDS:
        raise InvalidRequest(
            f"The request body has {len(pairs):,} fields in one object; {_MOST_FIELDS} are allowed."
        )
    if (twice := repeated_field(name for name, _ in pairs)) is not None:
        raise twice
    return dict(pairs)


def repeated_field(names: Iterable[str]) -> InvalidRequest | None:
    """Return the error for the first of these names that occurs twice; None if none does."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is None:
        return None
    shown = shorten(twice)
    return InvalidRequest(f"{shown} is given more than once; send it once.", param=shown)


def explained(
    errors: Sequence[Mapping[str, Any]], model: type[BaseModel], *, skip: int = 0
) -> InvalidRequest:
    """Return one error with a sentence for each problem that validation found; ``param`` is the first field.

    Args:
        errors: as ``ValidationError.errors()`` gives them, at least one.
        model: the model that was validated.
        skip: leading parts of each location that are not field names.
    """
    found = complaints(errors, model, skip=skip)
    return InvalidRequest(" ".join(c.message for c in found), param=found[0].field)


def missing_body(model: type[BaseModel]) -> InvalidRequest:
    """Return the error for a request without a body, with an example of one."""
    example = json.dumps(model.model_json_schema().get("examples", [{}])[0])
    return InvalidRequest(f"The request needs a body: a JSON object such as {example}.")


def wrong_content_type(given: str | None, *allowed: str) -> UnsupportedMediaType:
    """Return the error for a body of another content type than the allowed ones."""
    sent = f"not {shorten(given)}" if given else "and the request names none"
    return UnsupportedMediaType(
        f"The body must be sent with content-type: {' or '.join(allowed)}, {sent}."
    )


class _JsonRequest(Request):
    """A request whose JSON is read by :func:`read_json`."""

    async def json(self) -> Any:
        try:
            return await read_json(await self.body())
        except ServerError as error:
            raise BodyRefused(error) from error  # FastAPI passes on no other exception from here


class BodyRoute(APIRoute):
    """A route that takes a body: as it is, not compressed, and read by :func:`read_json` if it is JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            encoding = request.headers.get("content-encoding", "").strip().lower()
            if encoding not in ("", "identity"):
                raise UnsupportedEncoding(
                    f"The body is sent with content-encoding: {shorten(encoding)}; send it without compression."
                )
            return await handle(_JsonRequest(request.scope, request.receive))

        return checked
