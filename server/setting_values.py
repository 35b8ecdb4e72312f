"""Checks of the values of settings: each returns the value, or raises a ValueError that says what it must be."""

from __future__ import annotations

import json
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PATH_PREFIX = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*){1,8}")
"""A path that the server may be published under; no segment begins with a dot."""


_HOST = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}|\[?[0-9A-Fa-f:.]{2,45}\]?")


_CALLABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def split_list(value: Any) -> Any:
    """Parse ``a,b`` or ``["a", "b"]``, as a flag or a variable writes a list."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [item.strip() for item in value.split(",") if item.strip()]


def split_models(value: Any) -> Any:
    """Parse a list of models, or the one that it is: a directory may have a comma in its name."""
    return [value] if isinstance(value, str) and Path(value).is_dir() else split_list(value)


def label_of(model: str) -> str:
    """Return the name of a model before it has been loaded: the last part of its name or directory."""
    return Path(model).name or model


def are_models(value: list[str]) -> list[str]:
    """Check names and directories of models; their last parts tell them apart."""
    seen: dict[str, str] = {}
    if not value or not all(model.strip() for model in value):
        raise ValueError("must be the name or the directory of a model; got nothing.")
    for model in value:
        if (other := seen.get(label_of(model))) is not None:
            raise ValueError(
                f"must be models with different names; {other} and {model} are both called {label_of(model)}."
            )
        seen[label_of(model)] = model
    return value


def is_address(value: str) -> str:
    """Check an http address, and return it without a slash at its end."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"must be an address such as https://images.example.org; got {value}.")
    return value.rstrip("/")


def are_origins(value: list[str]) -> list[str]:
    """Check origins of pages; ``*`` is all."""
    for origin in value:
        if origin != "*" and (is_address(origin) != origin or urlsplit(origin).path):
            raise ValueError(
                f"must name origins such as https://app.example.org, or *; got {origin}."
            )
    return value


def are_hosts(value: list[str] | None) -> list[str] | None:
    """Check names and addresses of hosts; ``*`` is all."""
    for host in value or []:
        if host != "*" and not _HOST.fullmatch(host):
            raise ValueError(
                f"must name hosts without scheme and port, such as images.example.org, or *; got {host}."
            )
    return value


def are_networks(value: list[str] | None) -> list[str] | None:
    """Check addresses and networks; ``*`` is all."""
    for proxy in value or []:
        try:
            if proxy != "*":
                ip_network(proxy, strict=False)
        except ValueError as error:
            raise ValueError(
                f"must name addresses or networks such as 10.0.0.0/8, or *; got {proxy}."
            ) from error
    return value


def are_model_names(value: list[str]) -> list[str]:
    """Check names and patterns of models."""
    for name in value:
        if not name.strip("*") or len(name) > 256:
            raise ValueError(
                f"must be names of models such as gpt-image-1, or patterns such as gpt-image-*; got {name}."
            )
    return value


def is_prefix(value: str) -> str:
    """Check a path that the server is published under; empty is none."""
    if value and not PATH_PREFIX.fullmatch(value):
        raise ValueError(f"must be a path such as /star; got {value}.")
    return value


def is_store(value: str) -> str:
    """Check the setting ``image_store``, and return it without a slash at its end."""
    if value == "memory" or _is_place(value):
        return value.rstrip("/")
    raise ValueError(
        f"must be memory, a directory such as file:///var/lib/star, or a bucket such as s3://images/star; got {value}."
    )


def is_hook(value: str) -> str:
    """Check the setting ``safety_hook``: a callable as ``module:name``, or an http address."""
    parts = urlsplit(value)
    if _CALLABLE.fullmatch(value) or (parts.scheme in ("http", "https") and parts.hostname):
        return value
    raise ValueError(
        f"must be a function such as my_checks:check, or an address such as http://localhost:9000/check; got {value}."
    )


def is_shared_store(value: str) -> str:
    """Check the setting ``batch_store``, and return it without a slash at its end."""
    if _is_place(value):
        return value.rstrip("/")
    raise ValueError(
        "must be a directory such as file:///var/lib/star/batches, or a bucket such as s3://batches/star; got "
        f"{value}."
    )


def _is_place(value: str) -> bool:
    """Tell whether an address names a directory or a bucket."""
    parts = urlsplit(value)
    if parts.query or parts.fragment:
        raise ValueError(f"must not have a query or a fragment; got {value.rstrip('/')}.")
    directory = parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path[1:]
    return bool(directory) or (parts.scheme == "s3" and bool(parts.netloc))
