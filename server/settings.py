"""Every setting, once: a flag of the command line, a variable ``STAR_...``, and a key of a YAML file.

They take precedence in that order. A name that does not exist is an error that suggests the nearest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from server.messages import WorkerOptions
from server.validation import unknown

ENV_PREFIX = "STAR_"

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


def _split(value: Any) -> Any:
    """The list that ``a,b`` or ``["a", "b"]`` is in a flag or a variable."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [item.strip() for item in value.split(",") if item.strip()]


def _is_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"must be an address such as https://images.example.org; got {value}.")
    return value.rstrip("/")


def _are_origins(value: list[str]) -> list[str]:
    for origin in value:
        if origin != "*" and (_is_address(origin) != origin or urlsplit(origin).path):
            raise ValueError(
                f"must name origins such as https://app.example.org, or *; got {origin}."
            )
    return value


class SettingsFileError(ValueError):
    """The YAML file cannot be read, or names a setting that does not exist."""


class ModelSettings(BaseSettings):
    """Which model, and how it runs."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", protected_namespaces=("model_validate", "model_dump")
    )

    model: str = Field(
        "star-mini", min_length=1, description="name of a model, or the directory of a native one"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where it runs; auto takes a GPU if any"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the transformer's weights; auto is the best for the device"
    )
    mode: Literal["auto", "deterministic", "fast"] = Field(
        "auto",
        description="deterministic: an image is the same in any batch; auto is that on a CPU, fast on a GPU",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of the model; 0 is its share of the processors"
    )
    attention: Literal["auto", "sdpa", "xformers"] = Field(
        "auto",
        description="kernels of attention; xformers is an extra and needs a GPU, auto is sdpa",
    )
    cache_dir: Path | None = Field(None, description="where fetched and converted models are kept")
    offline: bool = Field(False, description="never fetch a model; an absent one is an error")
    allow_unsafe_pickle: bool = Field(
        False,
        description="convert published files that need more than tensors, and can run any code",
    )

    def worker_options(self, **others: Any) -> WorkerOptions:
        """What a worker needs of these; ``others`` overrides and adds."""
        return WorkerOptions(
            **{
                "model": self.model,
                "device": self.device,
                "dtype": self.dtype,
                "mode": self.mode,
                "threads": self.threads,
                "cache_dir": self.cache_dir,
                "offline": self.offline,
                "allow_unsafe_pickle": self.allow_unsafe_pickle,
                "attention": self.attention,
                "cuda_graphs": False,
                "compile": False,
                "slots": 1,
                "max_batch": 1,
                "catch_up": 0.0,
                "patience": 0.0,
                "max_step": 0.0,
                "text_cache": 1,
                "log_level": "warning",
                "log_format": "auto",
                **others,
            }
        )


class Settings(ModelSettings):
    """Everything that can be set about the server."""

    config: Path | None = Field(
        None, description="a YAML file of settings; flags and variables override it"
    )

    host: str = Field(
        "127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 is every interface"
    )
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 takes a free one")

    workers: int = Field(
        0,
        ge=0,
        le=64,
        description="processes that paint; 0 is one for each visible GPU, one on a CPU",
    )
    slots: int = Field(
        8,
        ge=1,
        le=1024,
        description="images painted at a time by a worker; each takes a slot of memory",
    )
    max_batch: int = Field(
        0, ge=0, le=1024, description="most images in one step; 0 is as many as slots"
    )
    queue_capacity: int = Field(64, ge=1, le=100_000, description="images that may wait for a slot")
    catch_up: float = Field(
        0.0, ge=0, le=1, description="share of an image's work a newcomer may need to be waited for"
    )
    patience: float = Field(
        1.0, ge=0, le=100, description="work, in images, that an image waits for others to catch up"
    )
    max_step: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="most work in one step, in images; 0 is 0.2 in deterministic mode, 1 in fast mode",
    )
    cuda_graphs: bool = Field(
        False,
        description="on a GPU, record the network's work at the start and replay it; takes memory",
    )
    compile: bool = Field(
        False,
        description="fuse kernels with torch.compile at the start, which takes minutes on a CPU",
    )
    text_cache: int = Field(256, ge=0, le=1_000_000, description="encoded prompts that are kept")

    default_timeout_s: Seconds = Field(
        300.0, description="deadline of a request that names none, in seconds"
    )
    max_timeout_s: Seconds = Field(
        3600.0, description="longest deadline a request may ask for, in seconds"
    )
    max_body_bytes: int = Field(
        1 << 20, ge=1024, le=1 << 30, description="longest request body, in bytes"
    )
    max_upload_bytes: int = Field(
        16 << 20,
        ge=1024,
        le=1 << 30,
        description="longest request body where it may hold images, in bytes",
    )
    max_image_pixels: int = Field(
        1 << 24,
        ge=1,
        le=1 << 27,
        description="most pixels of an image that is sent; more is not decoded",
    )
    api_keys: Annotated[list[SecretStr], NoDecode, BeforeValidator(_split)] = Field(
        [], description="keys that callers must send, separated by commas; none lets everybody in"
    )
    api_key_file: Path | None = Field(
        None, description="a file of further keys, one a line, which no process list shows"
    )
    requests_per_minute: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="for each key, or each address without keys; 0 is no limit",
    )
    images_per_minute: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="for each key, or each address without keys; 0 is no limit",
    )
    trusted_proxies: Annotated[list[str], NoDecode, BeforeValidator(_split)] = Field(
        ["127.0.0.1", "::1"],
        description="whose X-Forwarded-For and -Proto are believed, by commas; * is all",
    )
    cors_origins: Annotated[
        list[str], NoDecode, BeforeValidator(_split), AfterValidator(_are_origins)
    ] = Field([], description="sites whose pages may call the API, separated by commas; * is all")
    public_url: Annotated[str, AfterValidator(_is_address)] | None = Field(
        None,
        description="address that callers reach the server under; that of the request when left out",
    )
    stored_images: int = Field(
        1000, ge=0, le=1_000_000, description='images kept for response_format "url"; 0 refuses it'
    )
    # At least what one request can make: ten images of 1024 x 1024 pixels, not compressed at all.
    stored_bytes: int = Field(
        256 << 20, ge=32 << 20, le=1 << 40, description="most bytes of all kept images"
    )
    stored_s: Seconds = Field(3600.0, description="how long an image is kept, in seconds")
    previews: bool = Field(True, description="allow streams with partial images")
    preview_buffer: int = Field(
        2, ge=1, le=100, description="previews kept for a slow reader; older ones are dropped"
    )
    write_timeout_s: Seconds = Field(
        60.0,
        description="how long a client may take none of its answer before it is cut off, in seconds",
    )
    keepalive_s: Seconds = Field(
        15.0, description="silence in a stream before a comment is sent, in seconds"
    )
    encode_threads: int = Field(
        2, ge=1, le=64, description="threads that read and write PNG, WebP and JPEG"
    )

    drain_timeout_s: Seconds = Field(
        30.0, description="how long a stopping server finishes what runs, in seconds"
    )
    heartbeat_timeout_s: Seconds = Field(
        30.0, description="silence of the worker before it is replaced, in seconds"
    )
    stall_timeout_s: Seconds = Field(
        600.0, description="longest step of the engine before the worker is replaced, in seconds"
    )
    restart_backoff_s: Seconds = Field(
        1.0, description="wait before the worker is started again, doubled each time up to 60 s"
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least that is logged"
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto is console on a terminal and JSON elsewhere"
    )
    log_prompts: bool = Field(False, description="put prompts into the log")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, which arrive as arguments, before the environment, before the file."""
        check_environment(os.environ, list(cls.model_fields))
        given = init_settings.init_kwargs if isinstance(init_settings, InitSettingsSource) else {}
        path = given.get("config") or os.environ.get(f"{ENV_PREFIX}CONFIG")
        if not path:
            return init_settings, env_settings
        values = read_settings_file(Path(path), list(cls.model_fields))
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=values)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_timeout_s > self.max_timeout_s:
            raise ValueError(
                f"default_timeout_s ({self.default_timeout_s:g}) must not exceed max_timeout_s "
                f"({self.max_timeout_s:g})"
            )
        return self

    def worker_options(self, **others: Any) -> WorkerOptions:
        """What the worker process is started with."""
        return super().worker_options(
            **{
                "workers": self.workers,
                "slots": self.slots,
                "max_batch": self.max_batch or self.slots,
                "catch_up": self.catch_up,
                "patience": self.patience,
                "max_step": self.max_step,
                "cuda_graphs": self.cuda_graphs,
                "compile": self.compile,
                "text_cache": self.text_cache,
                "log_level": self.log_level,
                "log_format": self.log_format,
                **others,
            }
        )


def check_environment(environment: Mapping[str, str], names: list[str]) -> None:
    """Refuse variables with this program's prefix that are no setting.

    Args:
        environment: all variables.
        names: of the settings.

    Raises:
        SettingsFileError: naming the variable and the nearest setting.
    """
    known = [ENV_PREFIX + name.upper() for name in names]
    for name in environment:
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            raise SettingsFileError(unknown("environment variable", name, known))


def _reason(error: yaml.YAMLError) -> str:
    """Where and why, as far as the parser says."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"{place}: {problem}" if problem else place


def read_settings_file(path: Path, names: list[str]) -> dict[str, Any]:
    """The settings in a YAML file.

    Args:
        path: of the file.
        names: of the settings.

    Raises:
        SettingsFileError: the file cannot be read, is no mapping, or has a key that is no setting.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsFileError(f"The settings file {path} cannot be read: {reason}.") from error
    except yaml.YAMLError as error:
        raise SettingsFileError(
            f"The settings file {path} is not valid YAML{_reason(error)}."
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsFileError(
            f"The settings file {path} must hold keys and values, one setting a line."
        )
    allowed = [name for name in names if name != "config"]
    for key in values:
        if key not in allowed:
            raise SettingsFileError(f"{path}: {unknown('setting', str(key), allowed)}")
    return values
