"""``GET /v1/images/files/{name}``: images behind addresses, as browsers and download tools ask for them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from server.api.context import AppContext, Context
from server.api.responses import IMAGE_FILES, error_responses
from server.errors import NotFound, RangeNotSatisfiable
from server.http.request_log import record_of
from server.images.stores.store import StoredImage

router = APIRouter(prefix="/v1/images", tags=["OpenAI"])

_PATH = "/v1/images/files"
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII)
_HEADER = {"schema": {"type": "string"}}


async def keep_images(
    request: Request, context: Context, media_type: str, files: Sequence[bytes]
) -> list[str]:
    """Store image files.

    Args:
        request: whose answer names the addresses.
        context: of the app.
        media_type: of the files.
        files: to be stored.

    Returns:
        the address of each; it ends in the file's extension.

    Raises:
        ImageStoreFailed: the store failed.
    """
    base = context.settings.public_url or str(request.base_url).rstrip("/")
    with record_of(request).stage("store"):
        stored = (context.store.put(StoredImage(media_type, file)) for file in files)
        names = await asyncio.gather(*stored)
    return [f"{base}{_PATH}/{name}" for name in names]


@router.get(
    "/files/{name}",
    summary="An image that was asked for by address",
    response_class=Response,
    responses={
        200: {
            "description": "The image file.",
            "content": IMAGE_FILES,
            "headers": {"etag": _HEADER, "content-disposition": _HEADER, "accept-ranges": _HEADER},
        },
        206: {
            "description": "The part of the file that the Range header names.",
            "content": IMAGE_FILES,
            "headers": {"content-range": _HEADER},
        },
        304: {"description": "The file is the one that If-None-Match names."},
        **error_responses(400, 404, 416, 503),
    },
    operation_id="getImageContent",
)
async def content(
    request: Request,
    name: str,
    context: AppContext,
    download: Annotated[
        bool, Query(description="Have browsers save the file in place of showing it.")
    ] = False,
) -> Response:
    """Return the file behind a `url` of an answer, for a limited time. Anyone who knows the URL can read it.

    Of several ranges in a Range header none is honoured: the answer is the whole file.
    """
    image = await context.store.get(name)
    if image is None:
        raise NotFound(
            f"There is no image of this name. The latest {context.store.max_images} images are kept, each for "
            f"{context.store.seconds:g} s; generate it again with the same prompt and seed."
        )
    # A name belongs to one file for ever, on every replica; the tag does not tell the name.
    tag = blake2b(name.encode(), digest_size=16).hexdigest()
    disposition = "attachment" if download else "inline"
    headers = {
        "accept-ranges": "bytes",
        "cache-control": f"private, max-age={context.store.seconds:.0f}, immutable",
        "content-disposition": f'{disposition}; filename="star-{tag[:8]}{name[name.rindex(".") :]}"',
        "etag": f'"{tag}"',
    }
    if _is_known(request.headers.get("if-none-match"), headers["etag"]):
        return Response(status_code=304, headers=headers)
    return _whole_or_part(request, image, headers)


def _whole_or_part(request: Request, image: StoredImage, headers: dict[str, str]) -> Response:
    size = len(image.data)
    part = None
    unchanged = request.headers.get("if-range", headers["etag"]) == headers["etag"]
    if record_of(request).method == "GET" and unchanged:  # for HEAD there are no ranges
        part = parse_range(request.headers.get("range", ""), size)
    if part is None:
        return Response(image.data, media_type=image.media_type, headers=headers)
    return Response(
        image.data[part.start : part.stop],
        status_code=206,
        media_type=image.media_type,
        headers=headers | {"content-range": f"bytes {part.start}-{part.stop - 1}/{size}"},
    )


def parse_range(header: str, size: int) -> range | None:
    """Return the bytes that a Range header names (RFC 9110, section 14).

    Args:
        header: such as ``bytes=0-99``, ``bytes=100-`` or ``bytes=-100``.
        size: of the file, in bytes.

    Returns:
        the bytes; None for the whole file: without a header, or one with another unit, several ranges or no sense.

    Raises:
        RangeNotSatisfiable: no byte of the file is in the range.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size:
        raise RangeNotSatisfiable(
            f"The file has {size} bytes; the Range header asks for others.", size
        )
    return range(start, stop)


def _is_known(if_none_match: str | None, tag: str) -> bool:
    """Tell whether an If-None-Match header names the file; the comparison is the weak one."""
    given = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    return tag in given or given == ["*"]
