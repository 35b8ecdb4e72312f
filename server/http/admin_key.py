"""The key of administrators: read from the settings, and asked of every request to their port."""

from __future__ import annotations

import hmac
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api_keys import check_key, read_key_file
from server.errors import InvalidApiKey, error_response
from server.http.auth import given_key
from server.settings import Settings


def read_admin_key(settings: Settings) -> str:
    """Return the key of the settings, or of the file that they name.

    Raises:
        SettingsFileError: the file cannot be read, or the key is too short or not printable.
    """
    key = settings.admin_key.get_secret_value() if settings.admin_key is not None else ""
    if settings.admin_key_file is not None:
        key = read_key_file("the admin key", settings.admin_key_file).strip()
    check_key("The admin key", key)
    return key


class AdminKeyCheck:
    """Middleware that answers 401 to every request without the key, before its body is read.

    Args:
        app: the next ASGI app.
        key: compared in constant time.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._digest = sha256(key.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._has_key(Headers(scope=scope)):
            error = InvalidApiKey(
                "This port needs the admin key; send it as Authorization: Bearer <key>."
            )
            scope["state"]["record"].fail(error)
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        digest = sha256(given_key(headers).encode("latin-1")).digest()
        return hmac.compare_digest(digest, self._digest)
