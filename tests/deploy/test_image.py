"""The image: linted, and its steps replayed in a fresh environment, from which the wheel serves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy.image_replay import Image
from tests.deploy.test_dockerfile import FINAL, PROJECT
from tests.live_server import ROOT, free_port
from tests.server.processes import wait_until


def engine_answers() -> bool:
    """Whether a Docker engine runs here."""
    found = shutil.which("docker")
    return (
        bool(found)
        and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    )


needs_engine = pytest.mark.skipif(not engine_answers(), reason="no Docker engine runs here")


def hadolint() -> str:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("hadolint is not installed: make install TOOLS=test,deploy")
    return program


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    run = subprocess.run(
        [hadolint(), ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "")
    bad = tmp_path / "Dockerfile"
    bad.write_text((ROOT / "Dockerfile").read_text("utf-8") + "RUN cd /tmp && sudo ls\n", "utf-8")
    run = subprocess.run([hadolint(), bad], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "DL3004" in run.stdout


def test_the_labels_say_what_it_is() -> None:
    labels = " ".join(FINAL.all("LABEL"))
    for name in ("title", "description", "licenses", "version", "revision", "created", "source"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert f"VERSION={PROJECT['version']}" in FINAL.all("ARG")
    assert PROJECT["license"] in labels
    assert PROJECT["description"] in labels


@pytest.fixture(scope="module")
def image(network: None, tmp_path_factory: pytest.TempPathFactory) -> Image:
    built = Image(tmp_path_factory.mktemp("image"))
    built.build()
    return built


def run(image: Image, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the image would, outside the repository."""
    return subprocess.run(
        command,
        cwd=image.path("/models"),
        env=image.environment,
        capture_output=True,
        text=True,
        check=False,
    )


class TestReplay:
    def test_nothing_is_missing_or_too_much(self, image: Image) -> None:
        assert run(image, "python", "-m", "pip", "check").returncode == 0
        listed = json.loads(run(image, "python", "-m", "pip", "list", "--format=json").stdout)
        names = {package["name"].lower() for package in listed}
        assert "star-server" in names
        assert not names & {"pytest", "mypy", "ruff", "hatchling", "cyclonedx-bom", "hypothesis"}
        where = run(image, "python", "-c", "import server; print(server.__file__)").stdout
        assert where.startswith(str(image.path("/opt/star")))
        version = run(image, "star-server", "--version").stdout
        assert version == f"star-server {PROJECT['version']}\n"

    def test_the_inventory_is_that_of_the_environment(self, image: Image) -> None:
        document = json.loads(image.path("/dist/star-server.cdx.json").read_text("utf-8"))
        listed = json.loads(run(image, "python", "-m", "pip", "list", "--format=json").stdout)
        assert document["bomFormat"] == "CycloneDX"
        assert document["metadata"]["component"]["name"] == "star-server"
        inside = {
            component["name"].lower().replace("_", "-") for component in document["components"]
        }
        installed = {package["name"].lower().replace("_", "-") for package in listed}
        assert installed - inside <= {"star-server"}
        assert "pytest" not in inside

    def test_it_serves(self, image: Image, server: str) -> None:
        painted = httpx.post(
            f"{server}/generate",
            json={"prompt": "a red apple", "seed": 1},
            headers={"accept": "image/png"},
            timeout=120,
        )
        assert painted.status_code == 200
        assert painted.content.startswith(b"\x89PNG")
        assert httpx.get(f"{server}/v1/models").json()["data"][0]["id"] == "star-mini"
        assert httpx.get(f"{server}/").status_code == 200

    def test_its_health_check_agrees(self, image: Image, server: str) -> None:
        check = json.loads(FINAL.last("HEALTHCHECK").partition("CMD ")[2])
        port = server.rpartition(":")[2]
        healthy = image.environment | {"STAR_PORT": port}
        ill = image.environment | {"STAR_PORT": str(free_port())}
        for environment, code in ((healthy, 0), (ill, 1)):
            run = subprocess.run(
                check, env=environment, cwd=image.root, capture_output=True, check=False
            )
            assert run.returncode == code


@pytest.fixture(scope="module")
def server(image: Image) -> Iterator[str]:
    """The image's command, without tini, on a free port of loopback; ends as a container does."""
    port = free_port()
    _, _, program = json.loads(FINAL.last("ENTRYPOINT"))
    command = [str(image.path(f"/opt/star/bin/{program}")), *json.loads(FINAL.last("CMD"))]
    environment = image.environment | {"STAR_HOST": "127.0.0.1", "STAR_PORT": str(port)}
    with (image.root / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=image.path("/models"),
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, (image.root / "log").read_text("utf-8", "replace")
        try:
            return httpx.get(f"{url}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(ready, 180)
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


@needs_engine
class TestEngine:
    """What only an engine can tell. It builds the CPU variant, and runs it as Compose and Kubernetes do."""

    def test_it_builds_and_is_healthy(self, network: None) -> None:
        tag = "star-server:test"
        build = ["docker", "build", "--build-arg", "VARIANT=cpu", "--tag", tag]
        if index := os.environ.get("PIP_EXTRA_INDEX_URL"):
            build += ["--build-arg", f"PIP_EXTRA_INDEX_URL={index}"]
        subprocess.run([*build, str(ROOT)], check=True)
        port = free_port()
        restrictions = [
            "--read-only",
            "--tmpfs=/tmp",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
        ]
        command = [
            "docker",
            "run",
            "--detach",
            f"--publish=127.0.0.1:{port}:8000",
            *restrictions,
            tag,
        ]
        container = subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout.strip()
        try:
            wait_until(lambda: self.health(container) == "healthy", 180)
            assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        finally:
            subprocess.run(["docker", "rm", "--force", "--volumes", container], check=True)

    def health(self, container: str) -> str:
        inspect = ["docker", "inspect", "--format={{.State.Health.Status}}", container]
        return subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.strip()
