"""Multipart bodies: a part is a file by its name, whatever its headers say; nothing is given twice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from server.errors import InvalidRequest
from server.http.json_body import repeated_field

FORM = "multipart/form-data"

_INDEX = re.compile(r"\[\d{0,4}\]$")
_MOST_FILES, _MOST_FIELDS = 20, 200


class FormFile(NamedTuple):
    """A file of a form.

    Attributes:
        name: of its field, without the index of a list.
        content: of the file.
        filename: that its sender gave it; empty for none.
    """

    name: str
    content: bytes
    filename: str


@dataclass(frozen=True)
class FormBody:
    """A form that has been read.

    Args:
        fields: texts by name.
        files: in the order of the form; a name may be there often.
    """

    fields: Mapping[str, str]
    files: tuple[FormFile, ...]


class _Parser(MultiPartParser):
    """Starlette's parser, which takes a part for a file when it has a filename.

    That is not how all clients send files: some leave the filename out, and some send ``filename*`` alone, which
    the form's standard forbids. Others put one on every part.

    Args:
        request: with a form.
        files: names of the fields that hold files.
        texts: names of the fields that hold texts.
    """

    def __init__(self, request: Request, files: frozenset[str], texts: frozenset[str]) -> None:
        super().__init__(
            request.headers, request.stream(), max_files=_MOST_FILES, max_fields=_MOST_FIELDS
        )
        self._names_of_files = files
        self._names_of_texts = texts
        self.complete = False

    def on_headers_finished(self) -> None:
        disposition, options = parse_options_header(self._current_part.content_disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if plain_name(name) in self._names_of_files:
            options.setdefault(b"filename", b"file")
        elif name in self._names_of_texts:
            options.pop(b"filename", None)
        parameters = b"".join(
            b'; %s="%s"' % (key, _quoted(value)) for key, value in options.items()
        )
        self._current_part.content_disposition = disposition + parameters
        super().on_headers_finished()

    def on_end(self) -> None:
        self.complete = True


def _quoted(value: bytes) -> bytes:
    return value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def plain_name(name: str) -> str:
    """Return the name of a field without the index of a list: ``image[]`` and ``image[0]`` are ``image``."""
    return _INDEX.sub("", name)


async def read_form(request: Request, files: frozenset[str], texts: frozenset[str]) -> FormBody:
    """Read a multipart body.

    Args:
        request: with ``content-type: multipart/form-data``.
        files: names of the fields that hold files.
        texts: names of the fields that hold texts; any other is a file if it has a filename.

    Raises:
        InvalidRequest: the form is malformed, has no end, or has a text twice.
        HTTPException: the body cannot be read; its cause says why.
    """
    parser = _Parser(request, files, texts)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise _unreadable(error.message) from error
    except HTTPException:
        raise
    except Exception as error:  # the client has left, or a disk is full
        raise HTTPException(400, "There was an error parsing the body.") from error
    try:
        if not parser.complete:
            raise _unreadable("it ends before its last boundary; send it again.")
        found = form.multi_items()
        fields = [(name, value) for name, value in found if isinstance(value, str)]
        if (twice := repeated_field(name for name, _ in fields)) is not None:
            raise twice
        uploads = [
            FormFile(plain_name(name), await value.read(), value.filename or "")
            for name, value in found
            if isinstance(value, UploadFile)
        ]
    finally:
        await form.close()
    return FormBody(dict(fields), tuple(uploads))


def _unreadable(reason: str) -> InvalidRequest:
    return InvalidRequest(f"The request body cannot be read as a form: {reason}")
