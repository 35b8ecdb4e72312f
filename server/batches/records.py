"""What is known of a file and of a batch, as it is kept in the store."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

Endpoint = Literal["/v1/images/generations", "/v1/images/edits"]
"""What the requests of a batch are for."""

Purpose = Literal["batch", "batch_output"]
"""What a file is for: requests, or the results of requests."""

Kind = Literal["done", "failed"]
"""Which results of a batch a file has: those with images, or those with errors."""

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
"""Where a batch is, in the words of OpenAI's API."""

ENDED: frozenset[Status] = frozenset({"failed", "completed", "expired", "cancelled"})

_DIGITS_OF_TIME, _DIGITS = 12, 36
"""Hexadecimal digits of an id that are the milliseconds when it was made, and all of them."""
_FILE = re.compile(rf"file-[0-9a-f]{{{_DIGITS}}}")
_BATCH = re.compile(rf"batch_[0-9a-f]{{{_DIGITS}}}")


def new_id(prefix: Literal["file-", "batch_"], clock: Callable[[], float] = time.time) -> str:
    """Return an id that cannot be guessed; those made later are greater."""
    return f"{prefix}{int(clock() * 1000):0{_DIGITS_OF_TIME}x}{secrets.token_hex((_DIGITS - _DIGITS_OF_TIME) // 2)}"


def is_file_id(text: str) -> bool:
    """Tell whether a text has the form of a file's id: only such texts become names of objects."""
    return _FILE.fullmatch(text) is not None


def is_batch_id(text: str) -> bool:
    """Tell whether a text has the form of a batch's id."""
    return _BATCH.fullmatch(text) is not None


def made_at(identifier: str) -> float:
    """Return when an id was made, in seconds since the epoch."""
    return int(identifier[-_DIGITS:][:_DIGITS_OF_TIME], 16) / 1000


class Problem(BaseModel):
    """What is wrong with a file of requests.

    Args:
        code: a word for programs.
        message: a sentence that says what to change.
        line: number of the line, from 1.
        param: the field that is wrong.
    """

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class FileRecord(BaseModel):
    """A file.

    Args:
        id: of the file.
        filename: that its sender gave it.
        size: in bytes.
        created_at: seconds since the epoch, like all times here.
        expires_at: when it is removed.
        purpose: what it is for.
        batch_id: of a file of results: whose.
        kind: of a file of results: which.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    filename: str
    size: int
    created_at: int
    expires_at: int
    purpose: Purpose
    batch_id: str | None = None
    kind: Kind | None = None


class BatchRecord(BaseModel):
    """A batch; the times of what has not happened are None.

    Args:
        id: of the batch.
        owner: name of the key that made it; empty without keys.
        endpoint: that its requests are for.
        input_file_id: the file of requests.
        completion_window: as it was given.
        expires_at: when what is not done is given up.
        output_seconds: how long the results are kept.
        metadata: of the caller.
        status: where it is.
        ending: what it will have become once its files are written.
        errors: why it failed.
        total, completed, failed: numbers of requests.
        model: that paints it.
        output_file_id, error_file_id: files of results, once there are some.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    owner: str
    endpoint: Endpoint
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    output_seconds: int
    metadata: dict[str, str] | None = None
    status: Status = "validating"
    ending: Status | None = None
    errors: list[Problem] = []
    total: int = 0
    completed: int = 0
    failed: int = 0
    model: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None

    @property
    def ended(self) -> bool:
        """True once nothing of it will change."""
        return self.status in ENDED

    @property
    def ended_at(self) -> int | None:
        """When it ended."""
        times = (self.failed_at, self.completed_at, self.expired_at, self.cancelled_at)
        return next((time for time in times if time is not None), None)

    def now(self, status: Status, at: float, **changes: object) -> BatchRecord:
        """Return the same batch with a status that it has since ``at``, and with other changes."""
        return self.model_copy(update={"status": status, f"{status}_at": int(at), **changes})
