"""All settings. Each is a flag of the command line, a variable ``STAR_...`` and a key of a YAML file.

They take precedence in that order. An unknown name is an error that suggests the nearest one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
)

from server.admin_settings import AdminSettings
from server.batch_settings import BatchSettings
from server.model_settings import CONFIG, EngineSettings, SeveralModels, WorkerSettings
from server.safety_settings import SafetySettings
from server.setting_values import (
    are_hosts,
    are_model_names,
    are_networks,
    are_origins,
    is_address,
    is_prefix,
    is_store,
    split_list,
)
from server.settings_file import ENV_PREFIX, check_environment, read_settings_file

MetadataLevel = Literal["full", "provenance", "none"]
"""How much an image file says about itself."""

OnUnknown = Literal["suggest", "nearest"]
"""What a prompt gets that names nothing the model knows: an error that suggests prompts, or the nearest thing."""

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class FileSettings(BaseSettings):
    """The text in image files, and their signature."""

    model_config = CONFIG

    metadata: MetadataLevel = Field(
        "full",
        description=(
            "text in image files: full is origin, prompt and parameters, provenance is the origin alone; a request may "
            "choose between these two, or among all three if this is none"
        ),
    )
    c2pa_certificate: Path | None = Field(
        None,
        description="PEM file of a certificate and its issuers: sign Content Credentials; needs the extra c2pa",
    )
    c2pa_key: Path | None = Field(
        None, description="PEM file of the certificate's private key, not encrypted"
    )
    c2pa_timestamp_url: Annotated[str, AfterValidator(is_address)] | None = Field(
        None,
        description="address of a time-stamping authority (RFC 3161), asked for each signature",
    )

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.c2pa_certificate is None) != (self.c2pa_key is None):
            raise ValueError("c2pa_certificate and c2pa_key must be set together")
        if self.c2pa_timestamp_url is not None and self.c2pa_certificate is None:
            raise ValueError("c2pa_timestamp_url needs c2pa_certificate and c2pa_key")
        return self


class Settings(
    AdminSettings, BatchSettings, SafetySettings, FileSettings, EngineSettings, SeveralModels
):
    """Everything that can be set about the server."""

    config: Path | None = Field(
        None, description="a YAML file of settings; flags and variables override it"
    )

    host: str = Field(
        "127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 is every interface"
    )
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 takes a free one")
    queue_capacity: int = Field(64, ge=1, le=100_000, description="images that may wait for a slot")

    default_timeout_s: Seconds = Field(
        300.0, description="seconds until a request fails that sets no timeout_s"
    )
    max_timeout_s: Seconds = Field(3600.0, description="largest timeout_s of a request, in seconds")
    max_body_bytes: int = Field(
        1 << 20, ge=1024, le=1 << 30, description="largest request body, in bytes"
    )
    max_upload_bytes: int = Field(
        16 << 20,
        ge=1024,
        le=1 << 30,
        description="largest request body that may hold images, in bytes",
    )
    max_bodies_bytes: int = Field(
        0,
        ge=0,
        le=1 << 40,
        description="bytes of all request bodies under way at most; 0 is 16 times max_upload_bytes",
    )
    max_header_bytes: int = Field(
        64 << 10, ge=1024, le=1 << 24, description="largest header of a request, in bytes"
    )
    max_connections: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="open connections at most; fewer where the limit on file descriptors is low",
    )
    header_timeout_s: Seconds = Field(
        20.0, description="seconds that a client may take to send the header of a request"
    )
    body_timeout_s: Seconds = Field(
        30.0,
        description="seconds in which the body of a request must make progress, 1 KiB for each second",
    )
    keep_alive_s: Seconds = Field(
        75.0, description="seconds that a connection without a request is kept open"
    )
    max_image_pixels: int = Field(
        1 << 24, ge=1, le=1 << 27, description="pixels of an uploaded image at most"
    )
    decode_processes: int = Field(
        2, ge=1, le=64, description="processes that decode uploaded images, started when needed"
    )
    decode_timeout_s: Seconds = Field(
        10.0, description="seconds that decoding the uploaded images of a request may take"
    )
    decode_memory_bytes: int = Field(
        0,
        ge=0,
        le=1 << 40,
        description="address space of a decoding process; 0 is 512 MiB and 32 bytes for each of max_image_pixels",
    )
    api_keys: Annotated[list[SecretStr], NoDecode, BeforeValidator(split_list)] = Field(
        [], description="keys that clients must send, separated by commas; empty lets everyone in"
    )
    api_key_file: Path | None = Field(
        None,
        description="file of keys, read again when it changes: one a line, or YAML or JSON with names, hashes, limits",
    )
    requests_per_minute: int = Field(
        0, ge=0, le=1_000_000, description="limit per key, or per address without keys; 0 is none"
    )
    images_per_minute: int = Field(
        0, ge=0, le=1_000_000, description="limit per key, or per address without keys; 0 is none"
    )
    trusted_proxies: Annotated[
        list[str] | None, NoDecode, BeforeValidator(split_list), AfterValidator(are_networks)
    ] = Field(
        None,
        description=(
            "addresses or networks of proxies whose X-Forwarded-For, -Proto and -Prefix are believed, separated by "
            "commas; * is all; when left out, loopback's -Proto and -Prefix alone"
        ),
    )
    root_path: Annotated[str, AfterValidator(is_prefix)] = Field(
        "", description="path under which a proxy publishes the server, such as /star"
    )
    cors_origins: Annotated[
        list[str], NoDecode, BeforeValidator(split_list), AfterValidator(are_origins)
    ] = Field([], description="sites whose pages may call the API, separated by commas; * is all")
    allowed_hosts: Annotated[
        list[str] | None, NoDecode, BeforeValidator(split_list), AfterValidator(are_hosts)
    ] = Field(
        None,
        description=(
            "names that requests may give in Host, separated by commas; * is all; when left out, loopback's names and "
            "public_url's on a server that listens on loopback without trusted_proxies, else all"
        ),
    )
    public_url: Annotated[str, AfterValidator(is_address)] | None = Field(
        None, description="address of the server in image URLs; the request's own when left out"
    )
    image_store: Annotated[str, AfterValidator(is_store)] = Field(
        "memory",
        description=(
            'where images for response_format "url" are kept: memory, or shared by servers file:///directory or '
            "s3://bucket/prefix"
        ),
    )
    s3_endpoint: Annotated[str, AfterValidator(is_address)] | None = Field(
        None, description="address of a service that speaks S3; AWS when left out"
    )
    stored_images: int = Field(
        1000, ge=0, le=1_000_000, description='images kept for response_format "url"; 0 refuses it'
    )
    # At least what one request can make: ten images of 1024 x 1024 pixels, not compressed at all.
    stored_bytes: int = Field(
        256 << 20,
        ge=32 << 20,
        le=1 << 40,
        description="bytes of all kept images at most; S3 has no bound",
    )
    stored_s: Seconds = Field(3600.0, description="seconds that an image is kept")
    compatibility: Literal["lenient", "strict"] = Field(
        "lenient",
        description="lenient: OpenAI's routes serve what clients send by habit, with warnings; strict: they refuse it",
    )
    model_aliases: Annotated[
        list[str], NoDecode, BeforeValidator(split_list), AfterValidator(are_model_names)
    ] = Field(
        ["gpt-image-*", "chatgpt-image-*", "dall-e-*"],
        description="further names of the model on OpenAI's routes when lenient, separated by commas; * is any text",
    )
    default_response_format: Literal["auto", "b64_json", "url"] = Field(
        "auto",
        description="response_format of OpenAI's routes when left out; auto: url for dall-e models, else b64_json",
    )
    on_unknown: OnUnknown = Field(
        "suggest",
        description=(
            "native requests for a thing that a model with a small vocabulary does not know: suggest refuses them and "
            "names three prompts to try, nearest draws the nearest thing with a warning"
        ),
    )
    previews: bool = Field(True, description="allow streams with partial images")
    preview_buffer: int = Field(
        2, ge=1, le=100, description="previews kept for a slow client; older ones are dropped"
    )
    write_timeout_s: Seconds = Field(
        60.0, description="seconds after which a client that reads nothing is disconnected"
    )
    stream_comment_s: Seconds = Field(
        15.0, description="seconds of silence in a stream before a comment is sent"
    )
    encode_threads: int = Field(
        2, ge=1, le=64, description="threads that encode PNG, WebP and JPEG"
    )

    drain_timeout_s: Seconds = Field(
        30.0, description="seconds that a stopping server has to finish running requests"
    )
    heartbeat_timeout_s: Seconds = Field(
        30.0,
        description="seconds without a heartbeat before a worker is replaced; while it loads, 30 at least",
    )
    load_timeout_s: Seconds = Field(
        3600.0,
        description="seconds that a worker may take to load, downloads included, before it is replaced",
    )
    stall_timeout_s: Seconds = Field(
        600.0, description="seconds that one step may take before the worker is replaced"
    )
    restart_backoff_s: Seconds = Field(
        1.0, description="seconds before a worker is restarted, doubled each time up to 60"
    )
    log_prompts: bool = Field(False, description="log prompts")
    log_client_address: bool = Field(
        False, description="log the address of the caller of each request"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: flags, which arrive as arguments, before the environment, before the file."""
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
        if 0 < self.max_bodies_bytes < self.max_upload_bytes:
            raise ValueError(
                f"max_bodies_bytes ({self.max_bodies_bytes}) must not be less than max_upload_bytes "
                f"({self.max_upload_bytes})"
            )
        return self

    def for_worker(
        self, model: str | None = None, *, beside_others: bool = False, swap: int = 0
    ) -> WorkerSettings:
        """Return the part of the workers of one model; secrets stay in the parent process.

        Args:
            model: name or directory; the first one when None.
            beside_others: another model of this server holds memory already.
            swap: number of the swap that brings the model; 0 for that of the settings.
        """
        values = {name: getattr(self, name) for name in EngineSettings.model_fields}
        return WorkerSettings.model_construct(
            **values,
            model=model if model is not None else self.model[0],
            models=len(self.model),
            beside_others=beside_others,
            swap=swap,
        )
