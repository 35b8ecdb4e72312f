"""Requests that a page in somebody's browser sends to a server that is not its own, and their refusal.

A browser lets every page send simple requests to every address that it reaches, also a form with a file to a server on
the same machine, and asks nobody before. It names the page's origin in ``Origin``. A page whose name resolves to
127.0.0.1 (DNS rebinding) is of one origin with the server by then, but its requests name it in ``Host``.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import HostNotAllowed, OriginNotAllowed, ServerError, error_response
from server.settings import Settings
from server.validation import shorten

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def default_hosts(settings: Settings) -> list[str] | None:
    """Return ``allowed_hosts`` for a server that listens at ``settings.host``; None checks nothing.

    Names are checked on loopback only: elsewhere the names of a server are not known. Behind a proxy that
    ``trusted_proxies`` names, they are the proxy's affair.
    """
    if settings.allowed_hosts is not None:
        return settings.allowed_hosts
    if not is_loopback(settings.host) or settings.trusted_proxies:
        return None
    public = urlsplit(settings.public_url).hostname if settings.public_url else None
    return [*_LOOPBACK, settings.host, *([public] if public else [])]


def is_loopback(host: str) -> bool:
    """Tell whether only programs of this machine can connect to an address, or a name, that is listened on."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name_of(host: str) -> str | None:
    """Return the name in a ``Host`` header, without its port; None if it cannot be read."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return None
    return name.rstrip(".") if name else None


class HostCheck:
    """Middleware that answers 403 to requests for another host; those without ``Host`` are no browser's.

    Args:
        app: the next ASGI app.
        hosts: allowed names and addresses, without ports; ``*`` is all.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = {host.lower().strip("[]") for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "*" not in self._hosts:
            host = Headers(scope=scope).get("host", "")
            if host and _name_of(host) not in self._hosts:
                error = HostNotAllowed(
                    f"This server does not answer to the host {shorten(host)}; if it is one of its names, add it to "
                    "the setting allowed_hosts."
                )
                await _refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)


class OriginCheck:
    """Middleware that answers 403 to pages of other origins, for a server without keys.

    Clients other than browsers send no ``Origin``, and are not concerned.

    Args:
        app: the next ASGI app.
        origins: of pages that may call the API; ``*`` is all.
        public_url: address of the server's own pages, if it is known.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str], public_url: str | None = None) -> None:
        self._app = app
        self._origins = {origin.lower() for origin in origins}
        self._own = _place_of(public_url) if public_url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._allows(scope, Headers(scope=scope)):
            origin = Headers(scope=scope)["origin"]
            error = OriginNotAllowed(
                f"Pages of {shorten(origin)} may not call this server; add the origin to the setting cors_origins to "
                "let them."
            )
            await _refuse(error, scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _allows(self, scope: Scope, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None or "*" in self._origins or origin.lower() in self._origins:
            return True
        if headers.get("sec-fetch-site") == "same-origin":
            return True  # by the browser, which no page can forge; it holds behind proxies that replace Host
        place = _place_of(origin)
        # The scheme is not compared: a proxy that ends TLS may not have told it.
        here = (
            _place_of(f"{urlsplit(origin).scheme}://{headers.get('host', '')}") if place else None
        )
        return place is not None and place in (here, self._own)


def _place_of(address: str) -> tuple[str, int] | None:
    """Return host and port of an http address; None if it is none."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return parts.hostname, port or (443 if parts.scheme == "https" else 80)


async def _refuse(error: ServerError, scope: Scope, receive: Receive, send: Send) -> None:
    scope["state"]["record"].fail(error)
    await error_response(error)(scope, receive, send)
