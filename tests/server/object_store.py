"""An S3-compatible server, as a process of its own on a free port: moto's."""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.live_server import ROOT, free_port

MOTO = ROOT / "build" / "moto" / "bin" / "moto_server"
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}
"""What the server takes for credentials; it checks none."""

needs_moto = pytest.mark.skipif(
    not MOTO.is_file(), reason="moto is not installed: make build/moto/.installed"
)


@contextlib.contextmanager
def running_object_store(log: Path) -> Iterator[str]:
    """Start the server, and stop it in the end.

    Yields:
        its address.

    Raises:
        RuntimeError: it left, or did not answer in time.
    """
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [MOTO, "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the object store did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def make_bucket(url: str, bucket: str) -> None:
    """Create a bucket."""
    request = urllib.request.Request(f"{url}/{bucket}", method="PUT")
    urllib.request.urlopen(request, timeout=30).close()


def keys_in(url: str, bucket: str) -> list[str]:
    """The keys of all objects."""
    with urllib.request.urlopen(f"{url}/{bucket}?list-type=2", timeout=30) as answer:
        root = ElementTree.fromstring(answer.read())
    return [element.text or "" for element in root.iter() if element.tag.endswith("}Key")]
