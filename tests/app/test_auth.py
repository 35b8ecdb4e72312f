"""API keys, limits by caller, and CORS, as the app answers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import structlog

from server.api_keys import hash_of
from server.http.auth import needs_key
from server.http.route_path import route_path
from tests.server.service import Service, serve_fake

pytestmark = pytest.mark.anyio

KEY, OTHER = "sk-test-0123456789-a", "sk-test-0123456789-b"


@pytest.fixture(scope="module")
async def locked() -> AsyncIterator[Service]:
    async with serve_fake(api_keys=[KEY, OTHER]) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def paint(service: Service, **headers: str) -> httpx.Response:
    return await service.http.post("/generate", json={"prompt": "a red apple"}, headers=headers)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        KEY,
        f"Basic {KEY}",
        "Bearer sk-wrong-0123456789",
        f"Bearer {KEY}x",
        "Bearer é",
    ],
)
async def test_without_a_valid_key_the_answer_is_401(
    locked: Service, authorization: str | None
) -> None:
    headers = {} if authorization is None else {b"authorization": authorization.encode("latin-1")}
    steps = len(locked.engine.steps)
    answer = await locked.http.post("/generate", json={"prompt": "a"}, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-request-id"]
    assert len(locked.engine.steps) == steps


@pytest.mark.parametrize("authorization", [f"Bearer {KEY}", f"bearer  {KEY}", f"BEARER {OTHER}"])
async def test_a_valid_key_is_let_in(locked: Service, authorization: str) -> None:
    assert (await paint(locked, authorization=authorization)).status_code == 200


async def test_a_long_body_is_not_read_without_a_key(locked: Service) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 65536

    answer = await locked.http.post("/generate", content=endless())
    assert answer.status_code == 401
    assert sent <= 1


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/livez", False),
        ("GET", "/readyz", False),
        ("GET", "/startupz", False),
        ("GET", "/health", False),
        ("GET", "/metrics", False),
        ("GET", "/docs", False),
        ("GET", "/docs/parts/swagger-ui.css", False),
        ("GET", "/openapi.json", False),
        ("GET", "/", False),
        ("HEAD", "/", False),
        ("GET", "/static/style.css", False),
        ("GET", "/v1/images/files/abc.png", False),
        ("POST", "/", True),
        ("POST", "/generate", True),
        ("POST", "/metrics", True),
        ("POST", "/v1/images/generations", True),
        ("POST", "/v1/images/edits", True),
        ("GET", "/v1/models", True),
        ("GET", "/v1/models/x/content", True),
        ("GET", "/v1/images/files/a/b.png", True),
        ("GET", "/livez/more", True),
        ("GET", "//livez", True),
        ("GET", "/anything/else", True),
    ],
)
async def test_what_is_open(locked: Service, method: str, path: str, needed: bool) -> None:
    assert needs_key(method, path) == needed
    answer = await locked.http.request(method, f"http://test{path}")
    assert (answer.status_code == 401) == needed


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/star/livez", 200),
        ("GET", "/star/metrics", 200),
        ("GET", "/star/docs", 200),
        ("GET", "/star/", 200),
        ("GET", "/livez", 200),  # a proxy that removes the prefix itself
        ("GET", "/star/v1/models", 401),
        ("POST", "/star/generate", 401),
        ("POST", "/star/metrics", 401),
        ("GET", "/star/star/livez", 401),
        ("GET", "/starlivez", 401),
        ("GET", "/docs/../star/v1/models", 401),
    ],
)
async def test_a_path_prefix_opens_and_closes_nothing(
    locked: Service, method: str, path: str, status: int
) -> None:
    transport = httpx.ASGITransport(app=locked.app, root_path="/star")
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.request(method, f"http://test{path}")).status_code == status
        allowed = await http.get("/star/v1/models", headers=bearer(KEY))
        assert allowed.status_code == 200


@pytest.mark.parametrize(
    ("path", "root_path", "expected"),
    [
        ("/livez", "", "/livez"),
        ("/star/livez", "/star", "/livez"),
        ("/star/livez", "/star/", "/livez"),
        ("/livez", "/star", "/livez"),
        ("/starlet", "/star", "/starlet"),
        ("/star", "/star", "/"),
        ("/star/", "/star", "/"),
        ("/star/star/x", "/star", "/star/x"),
    ],
)
def test_the_path_that_routes_are_matched_against(path: str, root_path: str, expected: str) -> None:
    assert route_path({"path": path, "root_path": root_path}) == expected


@pytest.mark.parametrize(("path", "level"), [("/livez", "debug"), ("/v1/models", "info")])
async def test_a_path_prefix_leaves_the_log_as_it_is(path: str, level: str) -> None:
    with structlog.testing.capture_logs() as lines:
        async with serve_fake() as service:
            transport = httpx.ASGITransport(app=service.app, root_path="/star")
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                assert (await http.get(f"/star{path}")).status_code == 200
    (line,) = [line for line in lines if line["event"] == "request"]
    assert (line["log_level"], line["path"]) == (level, path)


async def test_the_key_is_nowhere_to_be_seen() -> None:
    with structlog.testing.capture_logs() as lines:
        async with serve_fake(api_keys=[OTHER, KEY]) as locked:
            assert (await paint(locked, **bearer(KEY))).status_code == 200
            assert (await paint(locked, **bearer(KEY + "x"))).status_code == 401
            shown = (
                repr(locked.app.state.context.settings) + (await locked.http.get("/metrics")).text
            )
    name = f"key-{hash_of(KEY).removeprefix('sha256:')[:8]}"
    assert [line.get("api_key") for line in lines if line["event"] == "request"] == [
        name, None, None,
    ]  # fmt: skip
    (refused,) = [line for line in lines if line.get("status") == 401]
    assert refused["reason"] == "The API key is not one of this server's."
    assert 'star_rejections_total{reason="invalid_api_key"} 1.0' in shown
    assert KEY not in f"{lines}{shown}"


async def test_limits_count_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with structlog.testing.capture_logs() as lines:
        await _use_up_the_limit(KEY, OTHER)
    (line,) = [line for line in lines if line.get("status") == 429]
    assert line["reason"].startswith("The limit of 1 requests per minute is reached.")


async def _use_up_the_limit(key: str, other: str) -> None:
    async with serve_fake(api_keys=[key, other], requests_per_minute=1) as service:
        assert (await paint(service, **bearer(key))).status_code == 200
        refused = await paint(service, **bearer(key))
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert "x-should-retry" not in refused.headers
        assert refused.headers["x-ratelimit-limit-requests"] == "1"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await paint(service, **bearer(other))).status_code == 200
        assert (await service.http.get("/v1/models", headers=bearer(key))).status_code == 200
        read = service.models.metrics.registry.get_sample_value
        assert read("star_rejections_total", {"reason": "rate_limit_exceeded"}) == 1


async def test_without_keys_limits_count_by_address() -> None:
    async with serve_fake(images_per_minute=3) as service:

        def caller(host: str) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app=service.app, client=(host, 5))
            return httpx.AsyncClient(transport=transport, base_url="http://test")

        async with caller("192.0.2.1") as one, caller("192.0.2.2") as two:
            body = {"prompt": "a", "n": 2}
            statuses = [
                (await http.post("/generate", json=body)).status_code for http in (one, one, two)
            ]
            too_many = await one.post("/generate", json=body | {"n": 4})
    assert statuses == [200, 429, 200]
    assert too_many.status_code == 400
    assert too_many.json()["error"]["param"] == "n"


ORIGIN = "https://app.example.org"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization",
}


async def test_pages_of_other_sites_are_kept_out_unless_named() -> None:
    async with serve_fake() as service:
        answer = await paint(service, origin=ORIGIN)
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert (
            await service.http.options("/generate", headers={"origin": ORIGIN, **PREFLIGHT})
        ).status_code == 403


async def test_pages_of_named_sites_are_let_in() -> None:
    async with serve_fake(cors_origins=[ORIGIN], api_keys=[KEY]) as service:
        allowed = await service.http.options("/generate", headers={"origin": ORIGIN, **PREFLIGHT})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == ORIGIN
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        answer = await paint(service, origin=ORIGIN, **bearer(KEY))
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        refused = await paint(service, origin=ORIGIN)  # so that the page can read why
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (
            401,
            ORIGIN,
        )
        stranger = await paint(service, origin="https://evil.example.org", **bearer(KEY))
        assert "access-control-allow-origin" not in stranger.headers
