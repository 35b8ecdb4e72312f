"""Clients of other projects, and one real server with the default model and the default settings for all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.live_server import ROOT, LiveServer

CLIENTS = ROOT / "build" / "clients"
SIDE = 512
"""Pixels of the default model's images."""

_NOT_INSTALLED = "is not installed; `make clients` installs it"


class Scripts:
    """Runs scripts of clients in a folder of their own, in which they leave the images that they got.

    Args:
        url: of the server.
        folder: for files.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    def python(self, script: str) -> str:
        """Run a script with LiteLLM, LangChain and their like; return what it printed."""
        interpreter = CLIENTS / "python" / "bin" / "python"
        if not (CLIENTS / "python" / ".installed").is_file():
            pytest.skip(f"the environment of Python's clients {_NOT_INSTALLED}")
        return self.run(str(interpreter), "-c", script)

    def node(self, script: str) -> str:
        """Run a module with the packages of Node; return what it printed."""
        if not (CLIENTS / "node" / ".installed").is_file():
            pytest.skip(f"the folder of Node's clients {_NOT_INSTALLED}")
        if (node := shutil.which("node")) is None:
            pytest.skip("needs node")
        # A module from standard input finds its packages from the working directory.
        return self.run(node, "--input-type=module", input=script, cwd=CLIENTS / "node")

    def run(self, *command: str, input: str | None = None, cwd: Path | None = None) -> str:
        """Run a command with the server's address and the folder in its environment; return what it printed."""
        # What these clients would do with keys and proxies of whoever runs the tests is not the question.
        kept = ("PATH", "HOME", "LANG", "TMPDIR", "JAVA_HOME")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment |= {"URL": self.url, "FOLDER": str(self.folder), "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-6000:]
        return done.stdout

    def image(self, name: str) -> Image.Image:
        """An image that a script has left, which has the model's size."""
        image = Image.open(self.folder / name)
        image.load()
        assert image.size == (SIDE, SIDE)
        return image


@pytest.fixture
def scripts(live_server: LiveServer, tmp_path: Path) -> Scripts:
    return Scripts(live_server.url, tmp_path)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A file to edit: a small picture, in grey."""
    path = tmp_path / "picture.png"
    Image.new("RGB", (SIDE, SIDE), "grey").save(path)
    mask = Image.new("RGBA", (SIDE, SIDE), "black")
    mask.paste((0, 0, 0, 0), (128, 128, 384, 384))
    mask.save(tmp_path / "mask.png")
    return path
