"""The OpenAPI document: FastAPI's, with its mistakes corrected and with what it cannot see added."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from server.api.batch_schemas import FileForm
from server.api.openai_schemas import LenientImageRequest, OpenAIEditForm, OpenAIEditJson
from server.api.responses import BEFORE_ROUTES, STREAM_EVENTS, error_responses, reference
from server.api.schemas import ErrorResponse
from server.http.auth import needs_key

_SCHEME = "ApiKey"
_BODIES = (LenientImageRequest, OpenAIEditForm, OpenAIEditJson, FileForm)


class Api(FastAPI):
    """FastAPI with a corrected OpenAPI document: invalid requests are answered with 400, not with 422."""

    with_keys = False
    """Whether callers must send an API key."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = super().openapi()
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    operation["responses"].pop("422", None)
                    _add_responses(operation, *BEFORE_ROUTES)
                    if self.with_keys and needs_key(method.upper(), path):
                        _require_key(operation)
            schemas = schema["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            schemas |= _other_schemas()
            if self.with_keys:
                schema["components"]["securitySchemes"] = {
                    _SCHEME: {"type": "http", "scheme": "bearer"}
                }
        return super().openapi()


def _other_schemas() -> dict[str, Any]:
    """Return the schemas that FastAPI does not see: of a stream's events, and of bodies that routes read themselves."""
    inputs: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((model, "serialization") for model in STREAM_EVENTS),
        *((model, "validation") for model in _BODIES),
    ]
    _, schema = models_json_schema(inputs, ref_template="#/components/schemas/{model}")
    definitions: dict[str, Any] = schema["$defs"]
    return definitions


def _require_key(operation: dict[str, Any]) -> None:
    operation["security"] = [{_SCHEME: []}]
    _add_responses(operation, 401)


def _add_responses(operation: dict[str, Any], *statuses: int) -> None:
    """Add error responses that no route declares, in the order of their statuses."""
    responses = operation["responses"]
    for status, response in error_responses(*statuses).items():
        del response["model"]
        response["content"]["application/json"]["schema"] = {"$ref": reference(ErrorResponse)}
        responses.setdefault(str(status), response)
    operation["responses"] = dict(sorted(responses.items()))
