"""A server on this machine that answers as the hub does, so that its own client fetches from it.

It knows what a download needs: a repository's revision and its tree, ``HEAD`` and ``GET`` of ``resolve``, and the store
of large files at another host name, with ranges. Large files (Git LFS) are named by their SHA-256, others by Git's
SHA-1.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "5ca1ab1e" * 5
Fault = Literal["dropped", "short", "wrong"]
"""What happens to a file on its way: the connection ends halfway, once; it has half its length; a bit is flipped."""
_LARGE = (".pth", ".safetensors", ".bin")


@dataclass(frozen=True)
class Stored:
    """A file of a repository."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_sha1(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git_sha1


@dataclass
class HubServer:
    """The hub's side of what happens.

    Attributes:
        repositories: name -> path -> file.
        faults: path of a file -> what happens to it; "dropped" is over when it has happened.
        ranges: of all requests for a part of a file, as the client wrote them.
        fetched: paths of all files that were sent, whole or in part.
    """

    repositories: Mapping[str, Mapping[str, Stored]]
    faults: dict[str, Fault] = field(default_factory=dict)
    ranges: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tree(self, repository: str) -> list[dict[str, Any]]:
        """All files of a repository, as ``/api/models/.../tree`` lists them."""
        return [
            {
                "type": "file",
                "path": path,
                "size": len(stored.content),
                "oid": stored.git_sha1,
                **(
                    {"lfs": {"oid": stored.sha256, "size": len(stored.content), "pointerSize": 134}}
                    if stored.large
                    else {}
                ),
            }
            for path, stored in self.repositories[repository].items()
        ]


def stored(files: Mapping[str, bytes]) -> dict[str, Stored]:
    """Files as a repository has them: weights in Git LFS."""
    return {path: Stored(content, path.endswith(_LARGE)) for path, content in files.items()}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/main", path):
            self._json({"id": m[1], "sha": COMMIT, "siblings": []})
        elif m := re.fullmatch(rf"/api/models/([^/]+/[^/]+)/tree/{COMMIT}", path):
            self._json(self.hub.tree(m[1]))
        elif m := re.fullmatch(rf"/([^/]+/[^/]+)/resolve/(?:main|{COMMIT})/(.+)", path):
            self._resolve(m[1], m[2], body=body)
        elif m := re.fullmatch(r"/store/([^/]+/[^/]+)/(.+)", path):
            self._file(m[2], self.hub.repositories[m[1]][m[2]], {}, body=body)
        else:
            self._send(404, {}, b"")

    def _json(self, value: object) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _resolve(self, repository: str, path: str, *, body: bool) -> None:
        found = self.hub.repositories.get(repository, {}).get(path)
        commit = {"X-Repo-Commit": COMMIT}
        if found is None:
            self._send(404, {**commit, "X-Error-Code": "EntryNotFound"}, b"")
        elif found.large:
            location = f"http://localhost:{self.hub.port}/store/{repository}/{path}"
            linked = {
                "X-Linked-Etag": f'"{found.etag}"',
                "X-Linked-Size": str(len(found.content)),
            }
            self._send(302, {**commit, **linked, "Location": location}, b"")
        else:
            self._file(path, found, {**commit, "ETag": f'"{found.etag}"'}, body=body)

    def _file(self, path: str, found: Stored, headers: dict[str, str], *, body: bool) -> None:
        content, fault = found.content, self.hub.faults.get(path) if body else None
        start = 0
        if asked := self.headers.get("Range"):
            self.hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if body:
            self.hub.fetched.append(path)
        if fault == "wrong":
            content = content[:-1] + bytes([content[-1] ^ 1])
        elif fault == "short":
            content = content[: len(content) // 2]
        content = content[start:]
        if fault == "dropped":
            del self.hub.faults[path]
            self._begin(200, headers, len(content))
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self._begin(206 if asked else 200, headers, len(content))
            if body:
                self.wfile.write(content)

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self._begin(status, headers, len(content))
        self.wfile.write(content)

    def _begin(self, status: int, headers: Mapping[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def running_hub(
    repositories: Mapping[str, Mapping[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """Serve repositories on a free port, and send the hub library there.

    Args:
        repositories: name -> path -> content.
        monkeypatch: the library reads where the hub is from the environment once, when it is imported.
    """
    from huggingface_hub import constants

    hub = HubServer({name: stored(files) for name, files in repositories.items()})
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.port = server.server_address[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
