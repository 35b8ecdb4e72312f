"""The playground's files over HTTP; what a browser makes of them is tested in ``tests/browser``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.live_server import ROOT
from tests.server.service import Service

STATIC = ROOT / "server" / "static"
FILES = sorted(f.relative_to(STATIC).as_posix() for f in STATIC.rglob("*") if f.is_file())
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "javascript",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".txt": "text/plain",
}


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/", *(f"/static/{name}" for name in FILES)])
async def test_each_file(shared: Service, path: str) -> None:
    answer = await shared.http.get(path)
    assert answer.status_code == 200
    assert TYPES[Path(path).suffix or ".html"] in answer.headers["content-type"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    again = await shared.http.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "no-cache"
    head = await shared.http.head(path)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/absent.js",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/%2Fetc%2Fpasswd",
    ],
)
async def test_nothing_else(shared: Service, path: str) -> None:
    answer = await shared.http.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_nothing_comes_from_elsewhere() -> None:
    read = [name for name in FILES if not name.startswith("fonts/")]
    text = "".join((STATIC / name).read_text("utf-8") for name in read)
    addresses = set(re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]{2,}[^\s\"']*", text))
    assert addresses == {"http://www.w3.org/2000/svg"}, "a namespace is a name, not a place"


def test_every_script_is_fetched_at_once() -> None:
    page = (STATIC / "index.html").read_text("utf-8")
    preloaded = re.findall(r'<link rel="modulepreload" href="static/([\w.]+)">', page)
    assert preloaded == [name for name in FILES if name.endswith(".js") and name != "app.js"]
