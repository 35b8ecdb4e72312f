"""What a server says at its start about secrets and addresses that are open to too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog

from server.commands.exposure import warn_of_exposure
from server.http.browser_check import is_loopback
from server.settings import Settings


def warnings(**settings: Any) -> list[Any]:
    with structlog.testing.capture_logs() as lines:
        warn_of_exposure(Settings(**settings))
    assert {line["log_level"] for line in lines} <= {"warning"}
    return lines


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gpu-1.example.org"])
def test_a_server_for_all_without_keys_is_warned_of(host: str) -> None:
    (line,) = warnings(host=host)
    assert line["event"].startswith("no API keys")
    assert line["host"] == host
    assert warnings(host=host, api_keys=["a-key-of-some-length"]) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_one_for_this_machine_is_not(host: str) -> None:
    assert is_loopback(host)
    assert warnings(host=host) == []


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o644, True), (0o604, True), (0o640, False), (0o600, False)]
)
def test_a_file_of_keys_that_all_may_read_is_warned_of(
    tmp_path: Path, mode: int, warned: bool
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-some-length\n")
    keys.chmod(mode)
    lines = warnings(host="0.0.0.0", api_key_file=keys)
    assert [(line["setting"], line["file"]) for line in lines] == (
        [("api_key_file", str(keys))] if warned else []
    )


def test_a_file_that_is_not_there_is_left_to_those_who_read_it(tmp_path: Path) -> None:
    assert warnings(api_key_file=tmp_path / "none") == []
