"""Follows docs/provenance.md: makes a certificate, signs with it, and checks the file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live_server import ROOT
from tests.markdown_blocks import read_blocks

pytest.importorskip("c2pa", reason="the extra c2pa is not installed")

BLOCKS = read_blocks((ROOT / "docs" / "provenance.md").read_text("utf-8"))


@pytest.mark.skipif(
    not (shutil.which("openssl") and shutil.which("exiftool")),
    reason="OpenSSL or ExifTool is not installed",
)
def test_the_page_can_be_followed(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    outputs = []
    for block in BLOCKS:
        command = ["bash", "-e", "-c"] if block.language == "bash" else [sys.executable, "-c"]
        run = subprocess.run(
            [*command, block.text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert run.returncode == 0, f"line {block.line}: {run.stderr}"
        outputs.append(run.stdout)
    made, checked, read = outputs
    assert "wrote apple.jpg" in made
    assert checked == "Example signer\n"
    assert "trainedAlgorithmicMedia" in read
    assert "a red apple" in read
