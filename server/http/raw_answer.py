"""Answers to what never became a request, as the bytes that go over the connection."""

from __future__ import annotations

import http
import json
import uuid
from email.utils import formatdate

from server.errors import ServerError


def raw_answer(error: ServerError, request_id: str = "") -> bytes:
    """Return a whole HTTP/1.1 answer with the error's envelope, after which the connection is closed.

    Args:
        error: what went wrong.
        request_id: for ``x-request-id``; a new one when empty.
    """
    body = json.dumps(error.envelope(), ensure_ascii=False, separators=(",", ":")).encode()
    headers = {
        "date": formatdate(usegmt=True),
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        "x-request-id": request_id or uuid.uuid4().hex,
        **error.headers(),
    }
    lines = [f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
