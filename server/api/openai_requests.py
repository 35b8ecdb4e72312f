"""Reading of requests to OpenAI's routes: JSON or a form, adapted to this server's rules unless it is strict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from server.api.compatibility import adapt
from server.api.openai_schemas import (
    LenientEditRequest,
    LenientImageRequest,
    OpenAIEditRequest,
    OpenAIImageRequest,
)
from server.errors import InvalidRequest
from server.http.form_body import FORM, read_form
from server.http.json_body import explained, missing_body, read_json, wrong_content_type
from server.images.uploads import EditFiles, Upload
from server.settings import Settings

_JSON = "application/json"
_FILES = frozenset({"image", "images", "mask"})
_TEXTS = frozenset(OpenAIEditRequest.model_fields)
_MOST_IMAGES = 20
_TEXT_OF_IMAGE = (b"data:", b"http:", b"https:")


@dataclass(frozen=True)
class OpenAIRequest:
    """A request that has been read and validated.

    Args:
        body: its fields.
        warnings: sentences about what was changed of it.
        files: the image to edit, if any.
    """

    body: OpenAIImageRequest
    warnings: Sequence[str] = ()
    files: EditFiles | None = None


async def read_generation(request: Request, settings: Settings) -> OpenAIRequest:
    """Read a request for new images.

    Raises:
        InvalidRequest: the body is no JSON object, or a field is invalid.
        UnsupportedMediaType: the body is not sent as JSON.
    """
    fields = await _json_fields(request, OpenAIImageRequest)
    return _validated(fields, settings, OpenAIImageRequest, LenientImageRequest)


async def read_edit(request: Request, settings: Settings) -> OpenAIRequest:
    """Read a request to edit an image, a form or, unless the server is strict, JSON.

    Raises:
        InvalidRequest: the body cannot be read, has no image or several, or a field is invalid.
        UnsupportedMediaType: the body is sent in another way.
    """
    if _media_type(request) == FORM:
        form = await read_form(request, _FILES, _TEXTS)
        fields: dict[str, Any] = {
            name: text for name, text in form.fields.items() if text or name == "prompt"
        }
        uploads = [_upload(file.name, file.content) for file in form.files if file.name in _FILES]
        fields |= {file.name: "(a file)" for file in form.files if file.name not in _FILES}
    elif settings.compatibility == "strict" or not _is_json(request):
        allowed = (FORM,) if settings.compatibility == "strict" else (FORM, _JSON)
        raise wrong_content_type(request.headers.get("content-type"), *allowed)
    else:
        fields = await _json_fields(request, OpenAIEditRequest)
        uploads = [
            Upload(name, data)
            for name in ("image", "images", "mask")
            for data in _references(name, fields.pop(name, None))
        ]
    asked = _validated(fields, settings, OpenAIEditRequest, LenientEditRequest)
    return OpenAIRequest(asked.body, asked.warnings, _edit_files(uploads))


def _validated(
    fields: Mapping[str, Any],
    settings: Settings,
    strict: type[OpenAIImageRequest],
    lenient: type[OpenAIImageRequest],
) -> OpenAIRequest:
    model, warnings = strict, list[str]()
    if settings.compatibility == "lenient":
        model = lenient
        adapted = adapt(fields, model)
        fields, warnings = adapted.fields, adapted.warnings
    try:
        return OpenAIRequest(model.model_validate(fields), warnings)
    except ValidationError as error:
        raise explained(error.errors(), model) from error


async def _json_fields(request: Request, model: type[OpenAIImageRequest]) -> dict[str, Any]:
    try:
        body = await request.body()
    except HTTPException:
        raise
    except Exception as error:  # the client has left
        raise HTTPException(400, "There was an error parsing the body.") from error
    if not body:
        raise missing_body(model)
    if not _is_json(request):
        raise wrong_content_type(request.headers.get("content-type"), _JSON)
    fields = await read_json(body)
    if not isinstance(fields, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    return fields


def _is_json(request: Request) -> bool:
    kind = _media_type(request)
    return kind == _JSON or (kind.startswith("application/") and kind.endswith("+json"))


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _upload(name: str, content: bytes) -> Upload:
    """Return a file of a form; some clients send the text of a ``data:`` URL in its place."""
    if content[:6].lower().startswith(_TEXT_OF_IMAGE):
        return Upload(name, content.decode("latin-1"))
    return Upload(name, content)


def _references(name: str, value: Any) -> list[str]:
    """Return the images of a JSON field: one, or those of a list.

    Raises:
        InvalidRequest: an image is given in another way than as text, such as the id of a file.
    """
    if value is None or value == "":
        return []
    items = value[:_MOST_IMAGES] if isinstance(value, list) else [value]
    return [_reference(name, item) for item in items]


def _reference(name: str, value: Any) -> str:
    """Return a ``data:`` URL or base64, given as it is or in an object."""
    if isinstance(value, dict):
        if value.get("file_id") is not None:
            raise InvalidRequest(
                f"{name} must hold the image itself, as a data: URL in image_url; this server stores no files that "
                "a file_id could name.",
                param=name,
            )
        value = next((value[key] for key in ("image_url", "b64_json", "url") if key in value), None)
        if isinstance(value, dict):  # as chat messages write it
            value = value.get("url")
    if isinstance(value, str) and value:
        return value
    raise InvalidRequest(
        f'{name} must be an image as {{"image_url": "data:image/png;base64,..."}}.', param=name
    )


def _edit_files(uploads: Sequence[Upload]) -> EditFiles:
    images = [upload for upload in uploads if upload.field != "mask"]
    # A form without a file in its field sends an empty one.
    masks = [upload for upload in uploads if upload.field == "mask" and upload.data]
    if len(images) != 1:
        raise InvalidRequest(f"image must be one file; got {len(images)}.", param="image")
    if len(masks) > 1:
        raise InvalidRequest(f"mask must be one file; got {len(masks)}.", param="mask")
    return EditFiles(images[0], masks[0] if masks else None)
