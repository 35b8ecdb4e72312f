"""Handlers that turn every exception of the app into the error envelope."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match

from server.errors import (
    ClientClosed,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    ServerError,
    error_response,
)
from server.http.json_body import explained, missing_body, wrong_content_type
from server.http.request_guard import BodyRefused
from server.http.request_log import record_of
from server.http.shortage import shortage_of
from server.validation import nearest, shorten

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def install_error_handlers(app: FastAPI) -> None:
    """Make an app answer every exception with the envelope."""
    app.add_exception_handler(ServerError, _answer_server_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http_exception)


async def _answer_server_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServerError)
    return _answer(request, error)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _answer(request, _explain(request, list(error.errors())))


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = _answer(request, _translate(request, error))
    answer.headers.update(error.headers or {})
    if error.status_code == MethodNotAllowed.status:
        answer.headers["allow"] = _allowed(request)
    return answer


def _answer(request: Request, error: ServerError) -> Response:
    record_of(request).fail(error)
    return error_response(error)


def _translate(request: Request, error: HTTPException) -> ServerError:
    """Return our error for one that Starlette or FastAPI raised."""
    if isinstance(error, BodyRefused):
        return error.error
    place = f"{record_of(request).method} {shorten(request.url.path)}"
    match error.status_code:
        case 404:
            near = nearest(request.url.path, _paths(request))
            hint = f"; did you mean {near}?" if near else "."
            return NotFound(f"There is nothing at {place}{hint} {_where_to_look(request)}")
        case 405:
            return MethodNotAllowed(
                f"{place} does not exist; use {_allowed(request)} for this path."
            )
        case 400 if isinstance(error.__cause__, ClientDisconnect):
            return ClientClosed("The client disconnected before its request was complete.")
        case 400 if isinstance(error.__cause__, OSError):
            return _no_room(error.__cause__)
        case 400 if (shortage := shortage_of(error.__cause__)) is not None:
            structlog.get_logger("star.server").error("body_not_read", error=str(error.__cause__))
            return shortage
        case 400:
            if request.headers.get("content-type", "").startswith("multipart/"):
                return InvalidRequest(
                    f"The request body cannot be read as a form: {shorten(error.detail)}"
                )
            return InvalidRequest("The request body cannot be read; send a JSON object in UTF-8.")
        case _:
            return InternalError(str(error.detail))


def _no_room(error: OSError) -> ServerError:
    """Return the error for a body that could not be kept while it was read: large files of forms go to a disk."""
    structlog.get_logger("star.server").error("body_not_stored", error=str(error))
    return Overloaded(
        "The server has no room on its temporary disk for the request body. Try again later, or send a smaller file.",
        retry_after=30,
    )


def _paths(request: Request) -> list[str]:
    """Return the paths of the API, except those that hold a name."""
    return [path for path in request.app.openapi()["paths"] if "{" not in path and path != "/"]


def _where_to_look(request: Request) -> str:
    """Return a sentence about the endpoints there are; the port for administrators has no page that lists them."""
    if any(
        r.matches({**request.scope, "method": "GET", "path": "/docs"})[0] is Match.FULL
        for r in request.app.routes
    ):
        return "GET /docs lists all endpoints."
    return f"This port has {', '.join(_paths(request))}."


def _allowed(request: Request) -> str:
    """Return the methods of a path for the ``Allow`` header; Starlette lists those of one route only."""

    def serves(method: str) -> bool:
        # HEAD is answered wherever GET is.
        scope = {**request.scope, "method": "GET" if method == "HEAD" else method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return ", ".join(method for method in _METHODS if serves(method))


def _explain(request: Request, errors: list[dict[str, Any]]) -> ServerError:
    """Return an error with a sentence for each problem that validation found; ``param`` is the first field."""
    first = errors[0]
    if first["loc"] == ("body",):
        return _explain_body(request, first)
    model = _body_model(request) if first["loc"][0] == "body" else BaseModel
    return explained(errors, model, skip=1)


def _explain_body(request: Request, error: dict[str, Any]) -> ServerError:
    """Return the error for a body that is missing, has another content type than JSON, or is not an object."""
    if error["type"] == "missing":
        return missing_body(_body_model(request))
    if isinstance(error.get("input"), bytes):
        return wrong_content_type(request.headers.get("content-type"), "application/json")
    return InvalidRequest("The request body must be a JSON object.")


def _body_model(request: Request) -> type[BaseModel]:
    """Return the model that the route validates its body with."""
    field = getattr(request.scope.get("route"), "body_field", None)
    model = getattr(getattr(field, "field_info", None), "annotation", None)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else BaseModel
