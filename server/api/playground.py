"""``GET /``: the playground, a page that shows images while they are generated, and its files.

The page is static and loads nothing from other servers; it asks this server about the model.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

router = APIRouter()

_FILES = StaticFiles(directory=Path(__file__).parent.parent / "static")
_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "font-src 'self'",
    "img-src 'self' blob:",  # images arrive inside JSON and are shown from memory
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
_HEADERS = {
    "content-security-policy": "; ".join(_POLICY),
    "referrer-policy": "no-referrer",  # a link to the page holds a prompt
    # Cached, but revalidated each time by the ETag: files of two releases must not be mixed.
    "cache-control": "no-cache",
}


@router.head("/", include_in_schema=False)
@router.get(
    "/",
    summary="The playground",
    response_class=HTMLResponse,
    responses={200: {"content": {"text/html": {"example": "<!doctype html>"}}}},
    tags=["operation"],
    operation_id="playground",
)
async def page(request: Request) -> Response:
    """Return the page."""
    return await _serve("index.html", request)


@router.api_route("/static/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
async def asset(path: str, request: Request) -> Response:
    """Return a script, the style sheet or the icon."""
    return await _serve(path, request)


async def _serve(path: str, request: Request) -> Response:
    """Return a file, or 304 to a client that has it already; 404 for anything outside the folder."""
    answer = await _FILES.get_response(path, request.scope)
    answer.headers.update(_HEADERS)
    return answer
