"""Bodies of OpenAI's files and batches, as its reference and its official client define them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, StringConstraints

from server.api.schemas import input_config, output_config
from server.batches.records import BatchRecord, Endpoint, FileRecord, Problem, Purpose, Status

_FILE_ID = "file-019ac9a1c2d3f0f0f0f0f0f0f0f0f0f0f0f0"
_BATCH_ID = "batch_019ac9a1c2d3f0f0f0f0f0f0f0f0f0f0f0f0"
_FILE: dict[str, JsonValue] = {
    "id": _FILE_ID,
    "object": "file",
    "bytes": 2048,
    "created_at": 1767225600,
    "expires_at": 1769817600,
    "filename": "requests.jsonl",
    "purpose": "batch",
    "status": "processed",
}
_BATCH: dict[str, JsonValue] = {
    "id": _BATCH_ID,
    "object": "batch",
    "endpoint": "/v1/images/generations",
    "input_file_id": _FILE_ID,
    "completion_window": "24h",
    "status": "in_progress",
    "created_at": 1767225600,
    "in_progress_at": 1767225601,
    "expires_at": 1767312000,
    "request_counts": {"total": 100, "completed": 40, "failed": 1},
    "metadata": None,
}


_NAMES, _LONGEST_NAME, _LONGEST_VALUE = 16, 64, 512
"""Of metadata, as OpenAI has them."""


def _check_metadata(value: Any) -> Any:
    """Explain in one sentence what a rule for each name and value would say in several."""
    good = isinstance(value, dict) and all(
        isinstance(text, str) and len(name) <= _LONGEST_NAME and len(text) <= _LONGEST_VALUE
        for name, text in value.items()
    )
    if value is not None and not (good and len(value) <= _NAMES):
        raise ValueError(
            f"up to {_NAMES} names of {_LONGEST_NAME} characters at most are allowed, each with a text of "
            f"{_LONGEST_VALUE} characters at most."
        )
    return value


Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=_LONGEST_NAME)],
        Annotated[str, StringConstraints(max_length=_LONGEST_VALUE)],
    ],
    Field(max_length=_NAMES),
    BeforeValidator(_check_metadata),
]


class ExpiresAfter(BaseModel):
    """When a file is removed."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: int = Field(ge=1, description="Seconds after it was made.")


class FileUpload(BaseModel):
    """The fields of a form with a file."""

    model_config = ConfigDict(extra="forbid")

    purpose: Literal["batch"] = Field(description="What the file is for: requests of a batch.")
    expires_after: ExpiresAfter | None = None


class FileForm(BaseModel):
    """A file of requests, as a form."""

    model_config = input_config({"purpose": "batch", "file": "(a file)"})

    file: str = Field(
        description="A file in JSON Lines: one request a line, with custom_id, method, url and body.",
        json_schema_extra={"type": "string", "format": "binary"},
    )
    purpose: Literal["batch"] = Field(description="What the file is for: requests of a batch.")


class FileObject(BaseModel):
    """A file."""

    model_config = output_config(_FILE)

    id: str
    object: Literal["file"] = "file"
    bytes: int = Field(description="Size of the file.")
    created_at: int = Field(description="Unix time in seconds, like all times.")
    expires_at: int = Field(description="When the file is removed.")
    filename: str
    purpose: Purpose = Field(description="batch_output is a file of results.")
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, record: FileRecord) -> FileObject:
        """Return a file as its record has it."""
        shown = record.model_dump(exclude={"size", "batch_id", "kind"})
        return cls(bytes=record.size, **shown)


class FileList(BaseModel):
    """Files of the caller."""

    model_config = output_config({"object": "list", "data": [_FILE], "has_more": False})

    object: Literal["list"] = "list"
    data: list[FileObject]
    has_more: bool = Field(description="Whether there are more after the last one.")


class FileDeleted(BaseModel):
    """A file that is no more."""

    model_config = output_config({"id": _FILE_ID, "object": "file", "deleted": True})

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class BatchRequest(BaseModel):
    """A batch to be made from a file of requests."""

    model_config = input_config(
        {
            "input_file_id": _FILE_ID,
            "endpoint": "/v1/images/generations",
            "completion_window": "24h",
        }
    )

    input_file_id: str = Field(max_length=64, description="Id of an uploaded file of requests.")
    endpoint: Endpoint = Field(description="The url of all its requests.")
    completion_window: str = Field(
        max_length=16,
        description='Time after which what is not done is given up, such as "24h", "30m" or "7d".',
    )
    metadata: Metadata | None = Field(None, description="Names and values of the caller's own.")
    output_expires_after: ExpiresAfter | None = Field(
        None, description="When the files of results are removed, after they were made."
    )


class BatchErrors(BaseModel):
    """What is wrong with a file of requests."""

    object: Literal["list"] = "list"
    data: list[Problem]


class RequestCounts(BaseModel):
    """Numbers of requests."""

    total: int
    completed: int
    failed: int


class BatchObject(BaseModel):
    """A batch; times of what has not happened are null."""

    model_config = output_config(_BATCH)

    id: str
    object: Literal["batch"] = "batch"
    endpoint: Endpoint
    errors: BatchErrors | None = Field(description="Why it failed before it began.")
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None = Field(description="File of the results that are images.")
    error_file_id: str | None = Field(description="File of the results that are errors.")
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, record: BatchRecord) -> BatchObject:
        """Return a batch as its record has it."""
        fields = record.model_dump(include=set(cls.model_fields) - {"errors"})
        return cls(
            **fields,
            errors=BatchErrors(data=record.errors) if record.errors else None,
            request_counts=RequestCounts(
                total=record.total, completed=record.completed, failed=record.failed
            ),
        )


class BatchList(BaseModel):
    """Batches of the caller, the latest first."""

    model_config = output_config({"object": "list", "data": [_BATCH], "has_more": False})

    object: Literal["list"] = "list"
    data: list[BatchObject]
    has_more: bool = Field(description="Whether there are more after the last one.")
