"""The systemd unit: its syntax, its command, and its times against the server's."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server.commands.cli import EXIT_USAGE
from server.settings import Settings
from tests.live_server import ROOT
from tests.readme_commands import check_flags, check_variable

UNIT = (ROOT / "deploy" / "systemd" / "star-server.service").read_text("utf-8")
SETTINGS = re.findall(r"(?m)^([A-Za-z]+)=(.*)$", UNIT)


def value(name: str) -> str:
    """The one value of a directive."""
    (found,) = [str(text) for key, text in SETTINGS if key == name]
    return found


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd-analyze: apt install systemd"
)
def test_systemd_accepts_it(tmp_path: Path) -> None:
    installed = UNIT.replace("/opt/star/bin", str(Path(sys.executable).parent))
    file = tmp_path / "star-server.service"
    file.write_text(installed, "utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_its_command_and_variables_exist() -> None:
    _, command, *flags = shlex.split(value("ExecStart"))
    assert command == "serve"
    check_flags(["-m", "server", command], flags)
    for assignment in value("Environment").split():
        check_variable(assignment.partition("=")[0])


def test_it_can_write_where_the_pages_put_its_images() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text("utf-8")
    assert f"file:///var/lib/{value('StateDirectory')}/images" in page
    assert value("ExecReload").split()[-2:] == ["-HUP", "$MAINPID"]


def test_it_waits_for_the_drain_and_does_not_repeat_a_mistake() -> None:
    assert float(value("TimeoutStopSec")) >= Settings().drain_timeout_s + 15
    assert int(value("RestartPreventExitStatus")) == EXIT_USAGE
