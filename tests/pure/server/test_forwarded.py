"""What a proxy says, and when it is believed."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from server.http.forwarded import Forwarded, TrustedProxies, address_of
from server.http.route_path import route_path
from server.settings import Settings

pytestmark = pytest.mark.anyio


async def seen(
    proxies: list[str] | None, peer: str, root_path: str = "", path: str = "/livez", **headers: str
) -> dict[str, Any]:
    """The scope that the app gets."""
    found: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.update(scope)

    scope = {
        "type": "http",
        "scheme": "http",
        "client": (peer, 1234),
        "path": path,
        "raw_path": path.encode(),
        "headers": [
            (f"x-forwarded-{name}".encode(), value.encode()) for name, value in headers.items()
        ],
    }
    await Forwarded(app, proxies, root_path)(scope, None, None)  # type: ignore[arg-type]
    return found


FOR = "for"


async def address(proxies: list[str] | None, peer: str, forwarded_for: str) -> str:
    return str((await seen(proxies, peer, **{FOR: forwarded_for}))["client"][0])


async def test_an_address_is_believed_from_named_proxies_only() -> None:
    assert await address(None, "127.0.0.1", "192.0.2.1") == "127.0.0.1"
    assert await address([], "127.0.0.1", "192.0.2.1") == "127.0.0.1"
    assert await address(["127.0.0.1"], "127.0.0.1", "192.0.2.1") == "192.0.2.1"
    assert await address(["127.0.0.1"], "198.51.100.1", "192.0.2.1") == "198.51.100.1"
    assert await address(["10.0.0.0/8"], "10.1.2.3", "192.0.2.1") == "192.0.2.1"
    assert await address(["10.0.0.0/8"], "::ffff:10.1.2.3", "192.0.2.1") == "192.0.2.1"


@pytest.mark.parametrize(
    ("forwarded_for", "expected"),
    [
        ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
        ("6.6.6.6,10.0.0.9 , 192.0.2.1,10.0.0.1", "192.0.2.1"),
        ("10.0.0.2, 10.0.0.1", "10.0.0.2"),
        ("6.6.6.6, 192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("6.6.6.6, unknown", "10.0.0.1"),
        ("6.6.6.6,", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("6.6.6.6," * 5000 + "192.0.2.1", "192.0.2.1"),
    ],
)
async def test_the_client_is_the_last_that_is_no_proxy(forwarded_for: str, expected: str) -> None:
    assert await address(["10.0.0.0/8"], "10.0.0.1", forwarded_for) == expected


async def test_of_all_proxies_the_last_hop_alone_is_believed() -> None:
    assert await address(["*"], "203.0.113.1", "6.6.6.6, 192.0.2.1") == "192.0.2.1"


async def test_the_scheme() -> None:
    assert (await seen(None, "127.0.0.1", proto="https"))["scheme"] == "https"
    assert (await seen(None, "::1", proto="http, https"))["scheme"] == "https"
    assert (await seen(None, "198.51.100.1", proto="https"))["scheme"] == "http"
    assert (await seen(["10.0.0.0/8"], "127.0.0.1", proto="https"))["scheme"] == "http"
    assert (await seen(None, "127.0.0.1", proto="javascript"))["scheme"] == "http"


@pytest.mark.parametrize("path", ["/livez", "/star/livez"])
async def test_the_root_path_whether_or_not_the_proxy_removes_it(path: str) -> None:
    scope = await seen(None, "198.51.100.1", "/star", path=path)
    assert scope["root_path"] == "/star"
    assert scope["path"] == "/star/livez"
    assert scope["raw_path"] == b"/star/livez"


@pytest.mark.parametrize("prefix", ["/star", "/star/"])
@pytest.mark.parametrize("root_path", ["", "/star", "/other"])
async def test_a_proxy_that_tells_the_prefix_has_removed_it(prefix: str, root_path: str) -> None:
    """So a caller that writes it twice does not get round what the proxy keeps to itself."""
    scope = await seen(None, "127.0.0.1", root_path, path="/livez", prefix=prefix)
    assert (scope["root_path"], scope["path"]) == ("/star", "/star/livez")
    scope = await seen(None, "127.0.0.1", root_path, path="/star/metrics", prefix=prefix)
    assert (scope["root_path"], scope["path"]) == ("/star", "/star/star/metrics")
    assert scope["raw_path"] == b"/star/star/metrics"
    assert route_path(scope) == "/star/metrics"


@pytest.mark.parametrize(
    "prefix", ["//evil.example", "/a/../b", "/<script>", "star", "/a" * 200, '/"', "/a?b", "/", ""]
)
async def test_a_prefix_that_is_no_plain_path_is_ignored(prefix: str) -> None:
    assert not (await seen(None, "127.0.0.1", prefix=prefix)).get("root_path")


async def test_a_prefix_from_elsewhere_is_ignored() -> None:
    scope = await seen(None, "198.51.100.1", prefix="/star")
    assert (scope.get("root_path"), scope["path"]) == (None, "/livez")


def test_addresses() -> None:
    assert str(address_of("fe80::1%eth0")) == "fe80::1"
    assert str(address_of(" ::ffff:192.0.2.1 ")) == "192.0.2.1"
    assert address_of("localhost") is None
    assert not TrustedProxies(["10.0.0.0/8"]).trusts("testclient")
    assert TrustedProxies(["*"]).trusts("testclient")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("trusted_proxies", "localhost", "addresses or networks"),
        ("trusted_proxies", "10.0.0.0/33", "addresses or networks"),
        ("root_path", "star", "a path such as /star"),
        ("root_path", "/star/", "a path such as /star"),
        ("max_bodies_bytes", "1024", "must not be less than max_upload_bytes"),
    ],
)
def test_settings_of_no_use_are_refused(name: str, value: str, message: str) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(ValidationError, match=message):
        Settings(**given)
