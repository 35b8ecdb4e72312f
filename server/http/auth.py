"""API keys: which requests need one, and the check that they have it."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import InvalidApiKey, error_response
from server.http.route_path import route_path
from server.settings import Settings
from server.settings_file import SettingsFileError

_KEY = re.compile(r"[\x21-\x7e]{16,512}")
_OPEN = re.compile(
    r"/(livez|readyz|startupz|health|metrics|openapi\.json|docs(/.*)?|static/.*|v1/images/files/[^/]+)?"
)
"""Paths that can be read without a key: probes, metrics, the pages and their parts, and images under secret names."""


def needs_key(method: str, path: str) -> bool:
    """Tell whether a request needs a key when the server has keys."""
    return method not in ("GET", "HEAD") or not _OPEN.fullmatch(path)


def read_keys(settings: Settings) -> list[str]:
    """Read the keys of the settings and of the file that they name.

    Raises:
        SettingsFileError: the file cannot be read or holds no key, or a key is too short or not printable.
    """
    keys = [secret.get_secret_value() for secret in settings.api_keys]
    if settings.api_key_file is not None:
        keys += _keys_in(settings.api_key_file)
    for number, key in enumerate(keys, 1):
        if not _KEY.fullmatch(key):
            raise SettingsFileError(
                f"API key {number} must be 16 to 512 printable ASCII characters without spaces; it has "
                f"{len(key)} characters. `openssl rand -hex 24` makes one."
            )
    return keys


def _keys_in(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsFileError(f"The file of API keys {path} cannot be read: {reason}.") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise SettingsFileError(f"The file of API keys {path} is empty; write one key a line.")
    return keys


def _given_key(headers: Headers) -> str:
    """Return the key of a request, or "": a bearer token, or what Azure's clients send as ``api-key``."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("api-key", "").strip()


class ApiKeyCheck:
    """Middleware that answers 401 to requests without a valid key, before their body is read.

    Args:
        app: the next ASGI app.
        keys: valid keys; they are compared in constant time.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and needs_key(scope["method"], route_path(scope)):
            record = scope["state"]["record"]
            try:
                record.api_key = self._number_of(_given_key(Headers(scope=scope)))
            except InvalidApiKey as error:
                record.fail(error)
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _number_of(self, given: str) -> int:
        """Return the key's position in the list, from 1, by which logs and rate limits name it."""
        if not given:
            raise InvalidApiKey(
                "This server needs an API key; send it as Authorization: Bearer <key>."
            )
        digest = sha256(given.encode("latin-1")).digest()
        # Every key is compared, whichever matches, so the time does not tell which.
        found = [
            i for i, known in enumerate(self._digests, 1) if hmac.compare_digest(known, digest)
        ]
        if not found:
            raise InvalidApiKey("The API key is not one of this server's.")
        return found[0]
