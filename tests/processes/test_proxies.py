"""The proxies of docs/proxies.md, as they are configured there, in front of the real server."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from PIL import Image

from tests.live_server import ROOT, LiveServer, free_port, running_server
from tests.star_model.tiny import write_tiny_model

PAGE = (ROOT / "docs" / "proxies.md").read_text("utf-8")
PER_MINUTE = 60


def block(language: str) -> str:
    """The one block of the page in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        url: ``https://127.0.0.1:<port>``.
        server: behind it.
        http: a client with an address of its own.
    """

    url: str
    server: LiveServer
    http: httpx.Client


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a self-signed ``cert.pem`` and its ``key.pem``."""
    folder = tmp_path_factory.mktemp("certificate")
    if program("openssl") is None:
        pytest.skip("openssl is not installed")
    command = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=star -days 2"
    files = ("-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem")
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A tiny model behind a proxy on this machine, started as the page says."""
    directory = tmp_path_factory.mktemp("proxied")
    model = write_tiny_model(directory / "model")
    (flags,) = set(re.findall(r"star-server serve (--trusted-proxies \S+)", PAGE))
    with running_server(
        *("--model", str(model), "--threads", "1", "--requests-per-minute", str(PER_MINUTE)),
        *flags.split(),
        log=directory / "log",
        ready_within=300,
    ) as running:
        yield running


def nginx(folder: Path, certificate: Path, port: int, upstream: int) -> list[str]:
    """Write nginx's configuration; return the command."""
    site = (
        block("nginx")
        .replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        .replace("/etc/ssl/images.example.org.pem", str(certificate / "cert.pem"))
        .replace("/etc/ssl/images.example.org.key", str(certificate / "key.pem"))
        .replace("127.0.0.1:8000", f"127.0.0.1:{upstream}")
    )
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(
        ("user root;\n" if os.getuid() == 0 else "")
        + f"daemon off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\n"
        "http {\naccess_log off;\n"
        + "".join(
            f"{kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + f"include {folder}/site.conf;\n}}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, certificate: Path, port: int, upstream: int) -> list[str]:
    """Write Caddy's configuration; return the command."""
    tls = f"https://127.0.0.1:{port} {{\n\ttls {certificate}/cert.pem {certificate}/key.pem"
    site = (
        block("caddy")
        .replace("images.example.org {", tls)
        .replace("127.0.0.1:8000", f"127.0.0.1:{upstream}")
    )
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"
    (folder / "Caddyfile").write_text(options + site)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


PROXIES = {"nginx": nginx, "caddy": caddy}


def program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


@contextlib.contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program(command[0]) or command[0], *command[1:]],
            stdout=log,
            stderr=log,
            env={**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"https://127.0.0.1:{port}/livez", verify=False)
                break
            except httpx.TransportError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


def client_at(address: str) -> httpx.Client:
    """A client with an address, and so a rate limit, of its own."""
    transport = httpx.HTTPTransport(local_address=address, verify=False)
    return httpx.Client(transport=transport, timeout=60)


@pytest.fixture(scope="module", params=list(PROXIES))
def proxy(
    request: pytest.FixtureRequest,
    server: LiveServer,
    certificate: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    name = request.param
    if program(name) is None:
        pytest.skip(f"{name} is not installed")
    folder, port = tmp_path_factory.mktemp(name), free_port()
    command = PROXIES[name](folder, certificate, port, server.port)
    with (
        running(command, folder, port),
        client_at(f"127.0.0.{10 + list(PROXIES).index(name)}") as http,
    ):
        yield Proxy(f"https://127.0.0.1:{port}", server, http)


@pytest.mark.parametrize("prefix", ["", "/star"])
def test_links_of_the_server_lead_back_through_the_proxy(proxy: Proxy, prefix: str) -> None:
    base = proxy.url + prefix
    assert proxy.http.get(f"{base}/readyz").status_code == 200
    assert proxy.http.head(f"{base}/livez").status_code == 200
    answer = proxy.http.post(
        f"{base}/v1/images/generations", json={"prompt": "a red apple", "response_format": "url"}
    )
    address = answer.json()["data"][0]["url"]
    assert address.startswith(f"{base}/v1/images/")
    assert Image.open(io.BytesIO(proxy.http.get(address).content)).size == (28, 28)


@pytest.mark.parametrize(
    "prefix", ["", "/star", "/star/star", "/star/star/star", "/star//star", "/."]
)
def test_metrics_are_not_published(proxy: Proxy, prefix: str) -> None:
    answer = proxy.http.get(f"{proxy.url}{prefix}/metrics")
    assert answer.status_code == 404
    assert "star_" not in answer.text


@pytest.mark.parametrize("prefix", ["", "/star"])
def test_pages_find_their_parts(proxy: Proxy, prefix: str) -> None:
    for page in ("/", "/docs"):
        answer = proxy.http.get(proxy.url + prefix + page)
        assert answer.status_code == 200
        parts = re.findall(r"(?:src|href|url): *'([^']+)'|(?:src|href)=\"([^\"]+)\"", answer.text)
        links = [first or second for first, second in parts]
        assert links
        for link in links:
            if not link.startswith(("data:", "#", "https:")):
                found = proxy.http.get(httpx.URL(proxy.url + prefix + page).join(link))
                assert found.status_code == 200, link


def test_previews_arrive_while_the_image_is_painted(proxy: Proxy) -> None:
    body = {"prompt": "a red apple", "n": 10, "stream": True, "partial_images": 2}
    with proxy.http.stream("POST", f"{proxy.url}/generate", json=body) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if line.startswith("data:"))
        metrics = httpx.get(f"{proxy.server.url}/metrics").text
        assert "star_requests_running 1.0" in metrics
        rest = "\n".join(lines)
    assert rest.count("image_generation.completed") >= 10


def test_uploads_pass_up_to_the_limit_and_no_further(proxy: Proxy) -> None:
    picture = io.BytesIO()
    Image.effect_noise((1200, 1200), 80).save(picture, "PNG")
    assert len(picture.getvalue()) > 1 << 20, "the default limit of nginx"
    form = {"prompt": "a red apple"}
    files = {"image": ("a.png", picture.getvalue(), "image/png")}
    edited = proxy.http.post(f"{proxy.url}/v1/images/edits", data=form, files=files)
    assert edited.status_code == 200, edited.text
    files = {"image": ("a.png", bytes(18 << 20), "image/png")}
    with contextlib.suppress(httpx.WriteError):  # it may close while the client is still sending
        refused = proxy.http.post(f"{proxy.url}/v1/images/edits", data=form, files=files)
        assert refused.status_code == 413
    assert proxy.http.get(f"{proxy.url}/livez").status_code == 200


def test_a_caller_cannot_choose_its_address_or_prefix(proxy: Proxy) -> None:
    """Each request comes with another address in X-Forwarded-For; all count as one caller's."""
    forged = {"x-forwarded-prefix": "/forged", "x-forwarded-proto": "http"}
    assert "/forged" not in proxy.http.get(f"{proxy.url}/docs", headers=forged).text
    statuses = []
    for number in range(PER_MINUTE + 30):
        forged["x-forwarded-for"] = f"192.0.2.{number}"
        answer = proxy.http.post(f"{proxy.url}/generate", json={"prompt": "a fox"}, headers=forged)
        statuses.append(answer.status_code)
        if answer.status_code == 429:
            break
    assert statuses[-1] == 429
    with client_at("127.0.0.2") as http:
        answer = http.post(f"{proxy.url}/generate", json={"prompt": "a fox"})
    assert answer.status_code == 200, "another caller has its own limit"


def test_the_page_has_the_annotations_of_the_chart() -> None:
    values = yaml.safe_load((ROOT / "deploy/helm/star/values.yaml").read_text("utf-8"))
    assert yaml.safe_load(block("yaml")) == values["ingress"]["annotations"]
