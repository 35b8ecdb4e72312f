"""Warnings about a server that strangers may use, and about secrets that others on the machine may read."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

from server.http.browser_check import is_loopback
from server.settings import Settings


def warn_of_exposure(settings: Settings) -> None:
    """Write a line to the log for whatever is open to more people than it need be.

    Args:
        settings: of a server that is about to start.
    """
    log = structlog.get_logger("star.server")
    keyless = not settings.api_keys and settings.api_key_file is None
    if keyless and not is_loopback(settings.host):
        log.warning(
            "no API keys: whoever reaches this address may use the server",
            host=settings.host,
            advice="set api_key_file, or listen on 127.0.0.1 behind a proxy that asks who is calling",
        )
    for name, path in _readable_by_others(settings):
        log.warning(
            "a secret can be read by all users of this machine",
            setting=name,
            file=str(path),
            advice=f"chmod 600 {path}",
        )


def _readable_by_others(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Yield the settings, and their files of secrets, that neither owner nor group is needed to read."""
    for name in ("api_key_file", "admin_key_file", "c2pa_key"):
        path: Path | None = getattr(settings, name)
        if path is not None and path.is_file() and path.stat().st_mode & stat.S_IROTH:
            yield name, path
