"""``GET /docs``: interactive API documentation; every file that it loads comes from this server."""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

router = APIRouter(include_in_schema=False)


_FILES = StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static")


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Return the page of Swagger UI."""
    root = request.scope.get("root_path", "")
    return get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title=f"{request.app.title}: documentation",
        swagger_js_url=f"{root}/docs/parts/swagger-ui-bundle.js",
        swagger_css_url=f"{root}/docs/parts/swagger-ui.css",
        swagger_favicon_url=f"{root}/docs/parts/favicon.png",
        # Its badge would send the document to a validation service elsewhere.
        swagger_ui_parameters={"validatorUrl": None, "persistAuthorization": True},
    )


@router.get("/docs/parts/{path:path}")
async def part(path: str, request: Request) -> Response:
    """Return Swagger UI's script, style or icon, from the package that ships them."""
    return await _FILES.get_response(path, request.scope)
