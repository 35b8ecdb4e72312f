"""``GET /docs``: interactive API documentation; every file that it loads comes from this server."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

router = APIRouter(include_in_schema=False)

_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_POLICY = (
    "default-src 'none'",
    "style-src 'self' 'unsafe-inline'",  # Swagger UI sets styles of elements
    "img-src 'self' data: blob:",  # its icons, and images that were generated
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
_HEADERS = {"referrer-policy": "no-referrer"}

_FILES = StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static")


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Return the page of Swagger UI."""
    root = request.scope.get("root_path", "")
    page = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title=f"{request.app.title}: documentation",
        swagger_js_url=f"{root}/docs/parts/swagger-ui-bundle.js",
        swagger_css_url=f"{root}/docs/parts/swagger-ui.css",
        swagger_favicon_url=f"{root}/docs/parts/favicon.png",
        # Its badge would send the document to a validation service elsewhere.
        swagger_ui_parameters={"validatorUrl": None, "persistAuthorization": True},
    )
    page.headers.update(_HEADERS)
    page.headers["content-security-policy"] = _policy_of(bytes(page.body).decode())
    return page


def _policy_of(page: str) -> str:
    """Return a policy that lets the page run its own scripts; the inline one, which starts it, is named by its hash."""
    digests = [sha256(script.encode()).digest() for script in _INLINE.findall(page)]
    named = " ".join(f"'sha256-{b64encode(digest).decode()}'" for digest in digests)
    return "; ".join((*_POLICY, f"script-src 'self' {named}"))


@router.get("/docs/parts/{path:path}")
async def part(path: str, request: Request) -> Response:
    """Return Swagger UI's script, style or icon, from the package that ships them."""
    answer = await _FILES.get_response(path, request.scope)
    answer.headers.update(_HEADERS)
    return answer
