"""What importing the service costs and shows; who may import whom is tested in ``test_architecture``."""

from __future__ import annotations

import subprocess
import sys

import server
from tests.live_server import ROOT


def test_the_app_and_the_command_line_start_without_torch() -> None:
    code = "import sys, server.app, server.commands.cli; print({'torch', 'transformers'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"


def test_the_public_names() -> None:
    assert server.__all__ == ["__version__"]
