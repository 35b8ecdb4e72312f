"""The settings of the port for administrators."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

from server.model_settings import CONFIG


class AdminSettings(BaseSettings):
    """A port of its own, on which a running server is changed; off unless it is set."""

    model_config = CONFIG

    admin_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="port on which administrators exchange the model and have settings read again; 0 takes a free one; "
        "none when left out",
    )
    admin_host: str = Field(
        "127.0.0.1", min_length=1, description="address that admin_port listens on"
    )
    admin_key: SecretStr | None = Field(
        None, description="key that administrators must send; no key of callers is one"
    )
    admin_key_file: Path | None = Field(
        None, description="file with that key, which no process list shows"
    )

    @model_validator(mode="after")
    def _port_and_key(self) -> Self:
        if self.admin_key is not None and self.admin_key_file is not None:
            raise ValueError("admin_key_file replaces admin_key; leave one of them out")
        keyed = self.admin_key is not None or self.admin_key_file is not None
        if self.admin_port is not None and not keyed:
            raise ValueError("admin_port needs admin_key_file or admin_key")
        return self
