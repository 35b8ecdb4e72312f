"""What a reverse proxy says about the request that it passes on, and whether it is believed."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.setting_values import PATH_PREFIX

_LOOPBACK = ("127.0.0.0/8", "::1")
_HOPS = 32
"""Entries of ``X-Forwarded-For`` that are read, from its end."""


class TrustedProxies:
    """Proxies that are believed.

    Args:
        proxies: addresses and networks, or ``*`` for every peer.
    """

    def __init__(self, proxies: Sequence[str]) -> None:
        self._all = "*" in proxies
        self._networks = [ip_network(proxy, strict=False) for proxy in proxies if proxy != "*"]

    def trusts(self, peer: str) -> bool:
        """Tell whether the other end of a connection is one of the proxies."""
        return self._all or self._lists(address_of(peer))

    def client_of(self, forwarded_for: str) -> str | None:
        """Return the client's address by ``X-Forwarded-For``, or None if there is none.

        Every proxy appends the address that it was called from, so the list is read from its end: entries that are
        themselves listed proxies are passed over, and the first other one is the client. What stands before it the
        client may have written itself. With ``*`` alone, that is the last entry.
        """
        found = None
        for entry in list(reversed(forwarded_for.split(",")))[:_HOPS]:
            address = address_of(entry)
            if address is None:
                break
            found = str(address)
            if not self._lists(address):
                break
        return found

    def _lists(self, address: IPv4Address | IPv6Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address, with or without brackets and a port; an IPv4 address in IPv6 form is that of IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


class Forwarded:
    """Outermost middleware: the client's address, scheme and path as the proxy in front knows them.

    ``X-Forwarded-Proto`` and ``-Prefix`` decide what the server's own links look like. ``X-Forwarded-For`` decides
    whose rate limits count, so it is believed only from proxies that the operator has named: many proxies pass on
    what their client has put there.

    Args:
        app: the next ASGI app.
        proxies: ``trusted_proxies`` of the settings; None believes scheme and prefix from loopback alone.
        root_path: prefix of all paths, unless the proxy says another; the proxy may have removed it, or not.
    """

    def __init__(self, app: ASGIApp, proxies: Sequence[str] | None, root_path: str = "") -> None:
        self._app = app
        self._proxies = TrustedProxies(_LOOPBACK if proxies is None else proxies)
        self._addresses = proxies is not None
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            client = scope.get("client")
            removed = ""
            if client is not None and self._proxies.trusts(client[0]):
                removed = self._believe(scope)
            if removed:
                _mount(scope, removed)
            elif self._root_path:
                _mount(scope, self._root_path, maybe_there=True)
        await self._app(scope, receive, send)

    def _believe(self, scope: Scope) -> str:
        """Take over scheme and address; return the prefix that the proxy has removed."""
        headers = Headers(scope=scope)
        scheme = _last(headers.getlist("x-forwarded-proto")).lower()
        if scheme in ("http", "https"):
            scope["scheme"] = scheme
        forwarded_for = ",".join(headers.getlist("x-forwarded-for"))
        if self._addresses and (address := self._proxies.client_of(forwarded_for)):
            scope["client"] = (address, 0)
        prefix = _last(headers.getlist("x-forwarded-prefix")).rstrip("/")
        return prefix if PATH_PREFIX.fullmatch(prefix) else ""


def _last(values: list[str]) -> str:
    return values[-1].rpartition(",")[2].strip() if values else ""


def _mount(scope: Scope, prefix: str, *, maybe_there: bool = False) -> None:
    """Set ASGI's ``root_path``, which paths begin with.

    A proxy that sends ``X-Forwarded-Prefix`` has removed the prefix, so what then begins with it again is a path of
    the caller's: were it removed once more, ``/star/star/metrics`` would get round a proxy that blocks
    ``/star/metrics``.

    Args:
        scope: of the request; changed in place.
        prefix: a path without a slash at its end.
        maybe_there: a path that begins with the prefix has it already.
    """
    scope["root_path"] = prefix
    path: str = scope["path"]
    if maybe_there and (path == prefix or path.startswith(f"{prefix}/")):
        return
    scope["path"] = prefix + path
    scope["raw_path"] = prefix.encode("ascii") + scope.get("raw_path", path.encode())
