"""``/v1/batches``: requests that are painted when nobody else waits, in the form of OpenAI's batches."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Annotated

from fastapi import APIRouter, Query, Request

from server.api.batch_schemas import BatchList, BatchObject, BatchRequest
from server.api.context import AppContext, Context
from server.api.files import After, batch_service, check_seconds, own_folder, page_of
from server.api.responses import error_responses
from server.batches.records import BatchRecord, new_id
from server.errors import InvalidRequest, NotFound
from server.http.json_body import BodyRoute
from server.http.request_log import record_of
from server.validation import shorten

router = APIRouter(prefix="/v1/batches", tags=["OpenAI"], route_class=BodyRoute)

_WINDOW = re.compile(r"([1-9]\d{0,6})([smhd])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@router.post(
    "",
    summary="Make a batch",
    responses=error_responses(400, 404, 413, 415, 429, 500, 503),
    operation_id="createBatch",
)
async def create(request: Request, body: BatchRequest, context: AppContext) -> BatchObject:
    """Have the requests of a file served, when the server has nothing else to do.

    They are checked and served like requests over HTTP, and take no time from these. Each has its result in one of two
    files: images in `output_file_id`, errors in `error_file_id`. After `completion_window`, what is not done is given
    up; what is done stays. A batch goes on where it was when the server is started again.
    """
    service, folder = batch_service(context), own_folder(request)
    seconds = _seconds(body.completion_window, context)
    expiry = body.output_expires_after
    check_seconds(context, "output_expires_after", expiry.seconds if expiry is not None else None)
    if body.endpoint == "/v1/images/edits" and context.settings.compatibility == "strict":
        raise InvalidRequest(
            "endpoint must be /v1/images/generations on this server, which is strict: it takes edits as forms, and the "
            "requests of a batch are JSON.",
            param="endpoint",
        )
    file = await service.files.find(folder, body.input_file_id)
    if file is None:
        raise NotFound(
            f"You have no file {shorten(body.input_file_id)}; upload one to POST /v1/files.",
            param="input_file_id",
        )
    if file.purpose != "batch":
        raise InvalidRequest(
            "input_file_id must be a file of requests; this one has results.", param="input_file_id"
        )
    now = time.time()
    record = BatchRecord(
        id=new_id("batch_"),
        owner=record_of(request).tenant,
        endpoint=body.endpoint,
        input_file_id=file.id,
        completion_window=body.completion_window,
        created_at=int(now),
        expires_at=int(now + seconds),
        output_seconds=expiry.seconds if expiry else int(context.settings.batch_stored_s),
        metadata=body.metadata,
    )
    await service.batches.create(record)
    service.runner.wake()
    return BatchObject.of(record)


def _seconds(window: str, context: Context) -> int:
    """Return the length of a completion window."""
    found, most = _WINDOW.fullmatch(window), context.settings.batch_longest_window_s
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= most:
        raise InvalidRequest(
            f'completion_window must be a time such as "24h", "30m" or "7d", and at most {most:.0f} s on this server; '
            f"got {shorten(window)}.",
            param="completion_window",
        )
    return seconds


@router.get(
    "",
    summary="The caller's batches",
    responses=error_responses(400, 404, 500, 503),
    operation_id="listBatches",
)
async def batches(
    request: Request,
    context: AppContext,
    after: After = "",
    limit: Annotated[int, Query(ge=1, le=100, description="Batches at most.")] = 20,
) -> BatchList:
    """List the batches of the caller, the latest first, page by page."""
    service, folder = batch_service(context), own_folder(request)
    ids = page_of(await service.batches.ids(folder), after, "desc")
    records = await asyncio.gather(*(service.batches.current(folder, each) for each in ids[:limit]))
    data = [BatchObject.of(record) for record in records if record is not None]
    return BatchList(data=data, has_more=len(ids) > limit)


@router.get(
    "/{batch_id}",
    summary="A batch of the caller",
    responses=error_responses(404, 500, 503),
    operation_id="retrieveBatch",
)
async def batch(request: Request, batch_id: str, context: AppContext) -> BatchObject:
    """Describe a batch: where it is, and how many of its requests have a result."""
    return BatchObject.of(await _found(request, batch_id, context))


@router.post(
    "/{batch_id}/cancel",
    summary="Cancel a batch",
    responses=error_responses(400, 404, 429, 500, 503),
    operation_id="cancelBatch",
)
async def cancel(request: Request, batch_id: str, context: AppContext) -> BatchObject:
    """Give up what is not done; what is done stays, and has its file of results."""
    record = await _found(request, batch_id, context)
    if record.ended:
        raise InvalidRequest(
            f"The batch has ended ({record.status}); only one that has not can be cancelled.",
            param="batch_id",
        )
    service, folder = batch_service(context), own_folder(request)
    await service.batches.cancel(folder, record.id)
    service.runner.wake()
    return BatchObject.of(await service.batches.current(folder, record.id) or record)


async def _found(request: Request, batch_id: str, context: Context) -> BatchRecord:
    record = await batch_service(context).batches.current(own_folder(request), batch_id)
    if record is None:
        raise NotFound(
            f"You have no batch {shorten(batch_id)}; GET /v1/batches lists those that you have."
        )
    return record
