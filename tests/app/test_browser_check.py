"""Pages of other sites, in the browser of somebody who reaches the server: they get nothing."""

from __future__ import annotations

from typing import Any

import pytest

from server.http.browser_check import default_hosts
from server.settings import Settings
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio

KEY = "k" * 16
OTHERS = (
    "https://evil.example.org",
    "http://test:81",
    "http://test.evil.example.org",
    "http://evil.example.org/test",
    "null",
    "http://",
    "http://[",
    "file://test",
    "",
)


@pytest.mark.parametrize("origin", OTHERS)
async def test_a_page_of_another_origin_is_refused(service: Service, origin: str) -> None:
    for answer in (
        # A form needs no preflight.
        await service.http.post(
            "/v1/images/edits",
            data={"prompt": "a"},
            files={"image": b"-"},
            headers={"origin": origin},
        ),
        await service.http.post("/generate", json={"prompt": "a"}, headers={"origin": origin}),
        await service.http.get("/v1/models", headers={"origin": origin}),
    ):
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "origin_not_allowed"
        assert answer.headers["x-request-id"]
    assert not service.engine.encoded


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://test"},
        {"origin": "https://test", "host": "test"},  # a proxy that did not tell about TLS
        {"origin": "http://test:80"},
        {"origin": "http://[::1]:8000", "host": "[::1]:8000"},
        {"origin": "https://images.example.org", "host": "10.0.0.1"},
        {"origin": "https://other.example.org", "sec-fetch-site": "same-origin"},
        {"origin": "https://app.example.org"},
    ],
)
async def test_own_pages_allowed_pages_and_other_clients_are_served(
    headers: dict[str, str],
) -> None:
    own = "https://images.example.org"
    async with serve_fake(public_url=own, cors_origins=["https://app.example.org"]) as service:
        answer = await service.http.post("/generate", json={"prompt": "a"}, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("settings", [{"api_keys": [KEY]}, {"cors_origins": ["*"]}])
async def test_with_keys_or_for_all_sites_the_origin_does_not_matter(
    settings: dict[str, Any],
) -> None:
    headers = {"origin": OTHERS[0], "authorization": f"Bearer {KEY}"}
    async with serve_fake(**settings) as service:
        answer = await service.http.post("/generate", json={"prompt": "a"}, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("LOCALHOST.", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("images.example.org", 200),
        ("evil.example.org:8000", 403),
        ("localhost.evil.example.org", 403),
        ("localhost@evil.example.org", 403),
        ("[::1", 403),
    ],
)
async def test_a_server_on_loopback_answers_to_its_names_only(host: str, status: int) -> None:
    hosts = default_hosts(Settings(public_url="https://images.example.org"))
    async with serve_fake(allowed_hosts=hosts) as service:
        answer = await service.http.get("/v1/models", headers={"host": host})
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "host_not_allowed"
        assert "allowed_hosts" in answer.json()["error"]["message"]


def test_hosts_are_checked_on_loopback_alone() -> None:
    assert default_hosts(Settings(host="0.0.0.0")) is None
    assert default_hosts(Settings(trusted_proxies=["127.0.0.1"])) is None
    assert default_hosts(Settings(host="0.0.0.0", allowed_hosts=["a.example.org"])) == [
        "a.example.org"
    ]
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.2"):
        assert host in (default_hosts(Settings(host=host)) or [])


@pytest.mark.parametrize("host", ["https://a.example.org", "a.example.org:80", "a b"])
def test_a_host_is_a_name(host: str) -> None:
    with pytest.raises(ValueError, match="must name hosts"):
        Settings(allowed_hosts=[host])
