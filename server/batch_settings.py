"""The settings of batch work, a part of :class:`server.settings.Settings`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

from server.model_settings import CONFIG
from server.setting_values import is_shared_store

_DAY = 86_400.0


class BatchSettings(BaseSettings):
    """Requests that are handed in as files, and painted when nobody else waits."""

    model_config = CONFIG

    batch_store: Annotated[str, AfterValidator(is_shared_store)] | None = Field(
        None,
        description=(
            "where files and batches are kept, which turns on /v1/files and /v1/batches: file:///directory or "
            "s3://bucket/prefix; servers may share it"
        ),
    )
    batch_requests: int = Field(
        10_000, ge=1, le=100_000, description="requests of one batch at most"
    )
    batch_file_bytes: int = Field(
        64 << 20, ge=1024, le=1 << 30, description="largest file of requests, in bytes"
    )
    batch_concurrency: int = Field(
        4, ge=1, le=1024, description="requests of all batches that are in work at once"
    )
    batches_per_caller: int = Field(
        20, ge=1, le=10_000, description="unfinished batches of one key, or of all without keys"
    )
    batch_files_per_caller: int = Field(
        1000, ge=1, le=100_000, description="files kept of one key, or of all without keys"
    )
    batch_stored_bytes: int = Field(
        16 << 30,
        ge=1 << 20,
        le=1 << 50,
        description="bytes of all files and results at most; batches wait while there are more",
    )
    batch_stored_s: float = Field(
        30 * _DAY,
        ge=60,
        le=3650 * _DAY,
        allow_inf_nan=False,
        description="seconds that files, results and finished batches are kept",
    )
    batch_longest_window_s: float = Field(
        7 * _DAY,
        ge=1,
        le=365 * _DAY,
        allow_inf_nan=False,
        description="longest completion_window of a batch, in seconds",
    )
    batch_takeover_s: float = Field(
        60.0,
        ge=1,
        le=3600,
        allow_inf_nan=False,
        description="seconds after which another server, or the next start, goes on with the batch of one that died",
    )
