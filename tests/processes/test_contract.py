"""Schemathesis against the real server: it does what its OpenAPI document says, whatever it is sent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.live_server import running_server
from tests.star_model.tiny import write_tiny_model

KEY = "sk-contract-0123456789"
CONFIG = Path(__file__).parent / "schemathesis.toml"
LENIENT = "^/v1/(images|models)"
"""Paths that answer otherwise with ``compatibility: lenient``."""
EXAMPLES = 10  # of each operation, beside those of the coverage phase; all in all under a thousand requests


@pytest.mark.parametrize("compatibility", ["strict", "lenient"])
def test_the_server_keeps_its_contract(compatibility: str, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    flags = ("--model", str(model), "--threads", "1", "--api-keys", KEY, "--log-format", "json")
    with running_server(*flags, "--compatibility", compatibility, log=tmp_path / "log") as server:
        command = [
            *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
            *("--config-file", str(CONFIG), "run", f"{server.url}/openapi.json"),
            *("-H", f"Authorization: Bearer {KEY}", "--seed", "1", "-n", str(EXAMPLES)),
            *("--generation-database", "none", "--continue-on-failure", "--request-timeout", "60"),
        ]
        if compatibility == "lenient":  # serves more than the document says, with warnings, here
            command += ["--include-path-regex", LENIENT]
            command += ["--exclude-checks", "negative_data_rejection"]
        run = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
        assert httpx.get(f"{server.url}/readyz").status_code == 200
    requests = [
        json.loads(line) for line in server.written.splitlines() if '"event": "request"' in line
    ]
    served = {(r["method"], r["path"]) for r in requests if r["outcome"] in ("ok", "deadline")}
    # It got through to the work itself, and not only to the validation before it.
    worked = {("POST", "/v1/images/generations"), ("GET", "/v1/models")}
    if compatibility == "strict":
        worked |= {("POST", "/"), ("POST", "/generate")}
    assert served >= worked
    assert "Traceback" not in server.written
    assert KEY not in server.written
