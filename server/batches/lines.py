"""Files of requests: JSON Lines, one request a line, read piece by piece."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from server.batches.records import Endpoint, Problem
from server.errors import InvalidRequest
from server.http.json_body import parse_json
from server.validation import shorten

_MOST_PROBLEMS = 50
_LONGEST_ID = 512
_FORM = '{"custom_id": "1", "method": "POST", "url": "/v1/images/generations", "body": {"prompt": "a fox"}}'
_FIELDS = frozenset({"custom_id", "method", "url", "body"})


class Line(NamedTuple):
    """A request in a file.

    Attributes:
        number: of its line, from 1.
        start: of its line, in bytes.
        length: of its line, in bytes.
        custom_id: by which its sender knows it.
    """

    number: int
    start: int
    length: int
    custom_id: str


class _Wrong(NamedTuple):
    code: str
    message: str
    param: str | None = None


class LineReader:
    """Finds the requests of a file, and all that is wrong with them; their bodies are not read.

    Args:
        endpoint: that all requests must be for.
        most_lines: requests at most.
        longest: bytes of a line at most.

    Attributes:
        lines: requests found so far.
        problems: the first ones; a file with any is not served.
    """

    def __init__(self, endpoint: Endpoint, most_lines: int, longest: int) -> None:
        self.lines: list[Line] = []
        self.problems: list[Problem] = []
        self._endpoint = endpoint
        self._most_lines = most_lines
        self._longest = longest
        self._ids: set[str] = set()
        self._rest = b""
        self._number = 0
        self._start = 0
        self._endless = False

    @property
    def stopped(self) -> bool:
        """True once there is no point in reading on."""
        many = len(self.problems) >= _MOST_PROBLEMS or len(self.lines) > self._most_lines
        return many or self._endless

    def feed(self, piece: bytes) -> None:
        """Read a piece of the file."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            self._take(line, len(line) + 1)
        if len(self._rest) > self._longest and not self.stopped:
            self._number += 1
            self._note(self._too_long())
            self._endless = True

    def end(self) -> None:
        """Read what the last piece left; the last line need not end in a line break."""
        self._take(self._rest, len(self._rest))
        if len(self.lines) > self._most_lines:
            self.problems.append(
                Problem(
                    code="too_many_requests",
                    message=f"A batch may have {self._most_lines:,} requests on this server; send the others in "
                    "another batch.",
                )
            )
        if not self.lines and not self.problems:
            message = f"The file has no request; write one a line, such as {_FORM}."
            self.problems.append(Problem(code="empty_file", message=message))

    def _take(self, line: bytes, size: int) -> None:
        if self.stopped:
            return
        self._number += 1
        start = self._start
        self._start += size
        if not line.strip():
            return
        found = self._too_long() if len(line) > self._longest else self._read(line)
        if isinstance(found, str):
            self._ids.add(found)
            self.lines.append(Line(self._number, start, len(line), found))
        else:
            self._note(found)

    def _note(self, wrong: _Wrong) -> None:
        code, message, param = wrong
        self.problems.append(Problem(code=code, message=message, line=self._number, param=param))

    def _read(self, line: bytes) -> str | _Wrong:
        """Return the id of a request, or what is wrong with it."""
        try:
            fields = parse_json(line)
        except InvalidRequest as error:
            reason = error.message.removeprefix("The request body ")
            return _Wrong("invalid_json_line", f"The line {reason}")
        if not isinstance(fields, dict):
            return _Wrong("invalid_json_line", f"The line must be a JSON object such as {_FORM}.")
        return self._wrong(fields) or str(fields["custom_id"])

    def _wrong(self, fields: dict[str, Any]) -> _Wrong | None:
        custom_id, method, url = (fields.get(name) for name in ("custom_id", "method", "url"))
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _LONGEST_ID:
            message = f"custom_id must be a text of 1 to {_LONGEST_ID} characters, by which you find the result."
            return _Wrong("invalid_custom_id", message, "custom_id")
        if custom_id in self._ids:
            message = (
                f"custom_id {_shown(custom_id)} is that of an earlier line; each needs its own."
            )
            return _Wrong("duplicate_custom_id", message, "custom_id")
        if method != "POST":
            message = f'method must be "POST"; got {_shown(method)}.'
            return _Wrong("invalid_method", message, "method")
        if url != self._endpoint:
            message = (
                f'url must be "{self._endpoint}", the endpoint of the batch; got {_shown(url)}.'
            )
            return _Wrong("invalid_url", message, "url")
        if not isinstance(fields.get("body"), dict):
            message = "body must be a JSON object, the body of the request."
            return _Wrong("invalid_body", message, "body")
        if unknown := next((name for name in fields if name not in _FIELDS), None):
            name = shorten(unknown)
            return _Wrong("unknown_field", f"Unknown field {name}; parameters go into body.", name)
        return None

    def _too_long(self) -> _Wrong:
        message = f"The line is longer than the {self._longest:,} bytes that a request may have."
        return _Wrong("line_too_long", message)


def body_of(line: bytes) -> bytes:
    """Return the body of a request that :class:`LineReader` has found, as it would come over HTTP."""
    return json.dumps(parse_json(line)["body"]).encode("ascii")


def _shown(value: Any) -> str:
    return shorten(json.dumps(value, ensure_ascii=False))
