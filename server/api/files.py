"""``/v1/files``: files of requests and of results, in the form of OpenAI's files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError
from starlette.responses import Response, StreamingResponse

from server.api.batch_schemas import FileDeleted, FileForm, FileList, FileObject, FileUpload
from server.api.context import AppContext, Context
from server.api.responses import error_responses, request_body
from server.batches.errors import BatchesOff
from server.batches.file_store import folder_of
from server.batches.records import FileRecord
from server.batches.service import BatchService
from server.errors import InvalidRequest, NotFound, RequestTooLarge
from server.http.form_body import FORM, FormBody, FormFile, read_form
from server.http.json_body import BodyRoute, explained, wrong_content_type
from server.http.request_log import record_of
from server.validation import shorten

router = APIRouter(prefix="/v1/files", tags=["OpenAI"], route_class=BodyRoute)

_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_LONGEST_FILENAME = 255
_AT_ONCE = 16
"""Records that are read at the same time."""

Limit = Annotated[int, Query(ge=1, le=10_000, description="Files at most.")]
After = Annotated[str, Query(max_length=64, description="Id of the last one of the page before.")]
Order = Annotated[Literal["asc", "desc"], Query(description="By the time when they were made.")]


def batch_service(context: Context) -> BatchService:
    """Return the parts of batch work.

    Raises:
        BatchesOff: the server has none.
    """
    if context.batches is None:
        raise BatchesOff(
            "This server keeps no files and works at no batches. To turn both on, set batch_store to a directory, such "
            "as file:///var/lib/star/batches, or to a bucket, such as s3://batches/star."
        )
    return context.batches


def own_folder(request: Request) -> str:
    """Return the folder of the caller's files and batches: of the key that came with the request, if keys are set."""
    return folder_of(record_of(request).tenant)


@router.post(
    "",
    summary="Upload a file of requests",
    responses=error_responses(400, 404, 413, 415, 429, 500, 503),
    operation_id="createFile",
    openapi_extra=request_body({FORM: FileForm}),
)
async def upload(request: Request, context: AppContext) -> FileObject:
    """Keep a file of requests for a batch.

    Each line is a JSON object: `custom_id`, by which you find its result; `method`, which is `POST`; `url`, the
    endpoint of the batch; and `body`, the body of the request. The file is read when a batch is made of it.
    """
    service, settings = batch_service(context), context.settings
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != FORM:
        raise wrong_content_type(kind or None, FORM)
    texts = frozenset({"purpose", _ANCHOR, _SECONDS})
    form = await read_form(request, frozenset({"file"}), texts)
    asked, file = _asked(form), _file(form)
    if len(file.content) > settings.batch_file_bytes:
        raise RequestTooLarge(
            f"The file is longer than the {settings.batch_file_bytes:,} bytes allowed; split it.",
            param="file",
        )
    seconds = asked.expires_after.seconds if asked.expires_after is not None else None
    check_seconds(context, "expires_after", seconds)
    record = await service.files.keep(
        own_folder(request), shorten(file.filename, _LONGEST_FILENAME), file.content, seconds
    )
    return FileObject.of(record)


def check_seconds(context: Context, name: str, seconds: int | None) -> None:
    """Refuse to keep a file for longer than this server does.

    Raises:
        InvalidRequest: naming the field.
    """
    most = context.settings.batch_stored_s
    if seconds is not None and seconds > most:
        raise InvalidRequest(
            f"{name}.seconds must be at most {most:.0f} on this server; got {seconds}.",
            param=f"{name}.seconds",
        )


def _asked(form: FormBody) -> FileUpload:
    fields: dict[str, Any] = {
        name: text for name, text in form.fields.items() if name not in (_ANCHOR, _SECONDS)
    }
    if {_ANCHOR, _SECONDS} & form.fields.keys():
        names = {"anchor": _ANCHOR, "seconds": _SECONDS}
        fields["expires_after"] = {
            name: form.fields[given] for name, given in names.items() if given in form.fields
        }
    fields |= {file.name: "(a file)" for file in form.files if file.name != "file"}
    try:
        return FileUpload.model_validate(fields)
    except ValidationError as error:
        raise explained(error.errors(), FileUpload) from error


def _file(form: FormBody) -> FormFile:
    files = [file for file in form.files if file.name == "file"]
    if len(files) != 1:
        raise InvalidRequest(f"file must be one file; got {len(files)}.", param="file")
    if not files[0].content:
        raise InvalidRequest("file is empty; write one request a line.", param="file")
    return files[0]


@router.get(
    "",
    summary="The caller's files",
    responses=error_responses(400, 404, 500, 503),
    operation_id="listFiles",
)
async def files(
    request: Request,
    context: AppContext,
    after: After = "",
    limit: Limit = 10_000,
    order: Order = "desc",
    purpose: Annotated[str, Query(max_length=64, description="Only files for this.")] = "",
) -> FileList:
    """List the files of the caller, page by page."""
    service, folder = batch_service(context), own_folder(request)
    ids = page_of(await service.files.ids(folder), after, order)
    found: list[FileRecord] = []
    for start in range(0, len(ids), _AT_ONCE):
        if len(found) > limit:
            break
        some = ids[start : start + _AT_ONCE]
        records = await asyncio.gather(*(service.files.find(folder, each) for each in some))
        found += [r for r in records if r is not None and purpose in ("", r.purpose)]
    data = [FileObject.of(record) for record in found[:limit]]
    return FileList(data=data, has_more=len(found) > limit)


def page_of(ids: Sequence[str], after: str, order: Literal["asc", "desc"]) -> list[str]:
    """Return the ids that come after one, which need not be there any more.

    Args:
        ids: in the order in which they were made, which is that of their names.
        after: the last one of the page before; empty for the first page.
        order: ``desc`` is the latest first.
    """
    if order == "asc":
        return [each for each in ids if each > after]
    return [each for each in reversed(ids) if not after or each < after]


@router.get(
    "/{file_id}",
    summary="A file of the caller",
    responses=error_responses(404, 500, 503),
    operation_id="retrieveFile",
)
async def file(request: Request, file_id: str, context: AppContext) -> FileObject:
    """Describe a file."""
    return FileObject.of(await _found(request, file_id, context))


@router.get(
    "/{file_id}/content",
    summary="The content of a file",
    response_class=Response,
    responses={
        200: {
            "description": "The file.",
            "content": {"application/jsonl": {"schema": {"type": "string", "format": "binary"}}},
        },
        **error_responses(404, 500, 503),
    },
    operation_id="downloadFile",
)
async def content(request: Request, file_id: str, context: AppContext) -> Response:
    """Return a file, as it was uploaded; or results, one a line, in the order of the requests."""
    record = await _found(request, file_id, context)
    headers = {
        "content-disposition": f'attachment; filename="{record.id}.jsonl"',
        "content-length": str(record.size),
    }
    if record_of(request).method == "HEAD":
        return Response(headers=headers, media_type="application/jsonl")
    pieces = batch_service(context).files.pieces(own_folder(request), record)
    return StreamingResponse(pieces, headers=headers, media_type="application/jsonl")


@router.delete(
    "/{file_id}",
    summary="Delete a file",
    responses=error_responses(400, 404, 500, 503),
    operation_id="deleteFile",
)
async def delete(request: Request, file_id: str, context: AppContext) -> FileDeleted:
    """Delete a file. One whose requests are still being worked at stays until its batch has ended."""
    record = await _found(request, file_id, context)
    service, folder = batch_service(context), own_folder(request)
    for unfinished in await service.batches.unfinished(folder):
        batch = await service.batches.find(folder, unfinished.batch_id)
        if batch is not None and not batch.ended and batch.input_file_id == record.id:
            raise InvalidRequest(
                f"The file is the input of {batch.id}, which has not ended; cancel that first.",
                param="file_id",
            )
    await service.files.delete(folder, record)
    return FileDeleted(id=record.id)


async def _found(request: Request, file_id: str, context: Context) -> FileRecord:
    record = await batch_service(context).files.find(own_folder(request), file_id)
    if record is None:
        raise NotFound(
            f"You have no file {shorten(file_id)}; GET /v1/files lists those that you have."
        )
    return record
