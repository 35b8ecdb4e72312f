"""The key of administrators: read from the settings, and asked of every request to their port."""

from __future__ import annotations

import hmac
import re
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import InvalidApiKey, error_response
from server.settings import Settings
from server.settings_file import SettingsFileError

_KEY = re.compile(r"[\x21-\x7e]{16,512}")


def read_admin_key(settings: Settings) -> str:
    """Return the key of the settings, or of the file that they name.

    Raises:
        SettingsFileError: the file cannot be read, or the key is too short or not printable.
    """
    key = settings.admin_key.get_secret_value() if settings.admin_key is not None else ""
    if settings.admin_key_file is not None:
        try:
            key = settings.admin_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise SettingsFileError(
                f"The file of the admin key {settings.admin_key_file} cannot be read: {reason}."
            ) from error
    if not _KEY.fullmatch(key):
        raise SettingsFileError(
            f"The admin key must be 16 to 512 printable ASCII characters without spaces; it has {len(key)} characters. "
            "`openssl rand -hex 24` makes one."
        )
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
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digest = sha256(given.strip().encode("latin-1")).digest()
        return scheme.lower() == "bearer" and hmac.compare_digest(digest, self._digest)
