"""Clients of plain HTTP: the JDK's, which offers HTTP/2, and curl with HTTP/1.0 and with HTTP/2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.clients.conftest import Scripts


def test_the_jdks_client(scripts: Scripts, picture: Path) -> None:
    if (java := shutil.which("java")) is None or shutil.which("javac") is None:
        pytest.skip("needs a JDK")
    printed = scripts.run(java, str(Path(__file__).parent / "JdkClient.java"))
    assert printed.splitlines() == ["200 HTTP_1_1 image"] * 2


@pytest.mark.parametrize("version", ["-0", "--http1.1", "--http2"])
def test_curl(scripts: Scripts, picture: Path, version: str) -> None:
    if (curl := shutil.which("curl")) is None:
        pytest.skip("needs curl")
    body = json.dumps({"model": "gpt-image-1", "prompt": "a fox", "size": "1024x1024"})
    sent = ("-sS", "--fail-with-body", version, "-H", "content-type: application/json", "-d")
    made = json.loads(scripts.run(curl, *sent, body, f"{scripts.url}/v1/images/generations"))
    assert made["data"][0]["b64_json"]
    form = ("-sS", "--fail-with-body", version, "-F", "image=@picture.png", "-F", "prompt=a fox")
    edited = json.loads(scripts.run(curl, *form, f"{scripts.url}/v1/images/edits"))
    assert edited["data"][0]["b64_json"]
    streamed = json.dumps({"prompt": "a fox", "stream": True, "partial_images": 1})
    sent = ("-sS", "--fail-with-body", version, "-H", "content-type: application/json", "-d")
    events = scripts.run(curl, *sent, streamed, f"{scripts.url}/v1/images/generations")
    assert events.startswith("event: image_generation.partial_image\n"), "no chunks in HTTP/1.0"
    assert '"seed":' in events
