"""docs/operations.md, followed from its first command to its last, as a stranger would with a terminal to spare."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.live_server import ROOT, free_port
from tests.markdown_blocks import Block, read_blocks
from tests.server.processes import needs_proc, wait_until
from tests.star_model.tiny import write_tiny_model

TOOLS = ("bash", "curl", "openssl", "pgrep", "prometheus", "promtool")
BLOCKS = [
    b
    for b in read_blocks((ROOT / "docs" / "operations.md").read_text("utf-8"))
    if b.language == "bash"
]
STAYS = re.compile(r"^(?:[A-Z_]+=\S+ )*(star-server serve|prometheus)\b.*$", re.M)
"""A command that stays in the foreground, and in its terminal; variables for it alone may stand before it."""
READY = {
    "star-server serve": "http://localhost:8000/readyz",
    "prometheus": "http://localhost:9090/-/ready",
}
"""What answers 200 once it is up."""

pytestmark = [
    needs_proc,
    pytest.mark.skipif(
        not all(map(shutil.which, TOOLS)),
        reason=f"needs {', '.join(TOOLS)}: apt install prometheus procps",
    ),
]


class Stranger:
    """Someone in a folder that has what the page needs of the repository, with free ports in place of the page's.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {port: free_port() for port in ("8000", "8001", "9090")}
        self.terminals: dict[
            str, subprocess.Popen[bytes]
        ] = {}  # the latest of each command that stays
        (folder / "deploy").symlink_to(ROOT / "deploy")
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "STAR_MODEL": str(write_tiny_model(folder / "model")),
            "STAR_THREADS": "1",
            "STAR_HEARTBEAT_TIMEOUT_S": "3",  # the page's 30 s are long to wait
        }

    def follow(self, block: Block) -> None:
        """Run a block; what stays gets a terminal of its own, and is waited for until it answers."""
        staying = STAYS.search(block.text)
        if staying is None:
            self._run(block.text)
            return
        assert staying.end() == len(block.text), "nothing can follow a command that stays"
        self._run(block.text[: staying.start()])
        with (self.folder / "terminal").open("ab") as output:
            self.terminals[staying[1]] = subprocess.Popen(
                ["bash", self._script(f"exec env {staying[0]}")],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.wait_for(staying[1])

    def wait_for(self, command: str) -> None:
        """Until what it started answers."""

        def answers() -> bool:
            failed = [terminal for terminal in self.terminals.values() if terminal.poll()]
            assert not failed, (self.folder / "terminal").read_text()
            try:
                return httpx.get(self._with_own_ports(READY[command]), timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, 120)

    def restarts(self) -> float:
        """Of the worker so far."""
        page = httpx.get(self._with_own_ports("http://localhost:8000/metrics"), timeout=30).text
        (count,) = re.findall(r"^star_engine_restarts_total\S* (\S+)$", page, re.M)
        return float(count)

    def leave(self) -> None:
        """Close the terminals, and end what is left in them."""
        for terminal in self.terminals.values():
            if terminal.poll() is None:
                os.killpg(terminal.pid, signal.SIGKILL)
            terminal.wait()

    def _run(self, commands: str) -> None:
        done = subprocess.run(
            ["bash", "-eu", self._script(commands)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"

    def _script(self, commands: str) -> str:
        """A file of these commands: in a file, since ``pgrep -f`` reads command lines."""
        # With the port in the server's command line, ``pgrep`` finds no other server of this machine.
        commands = commands.replace(
            "star-server serve", f"star-server serve --port {self.ports['8000']}"
        )
        script = self.folder / "block.sh"
        script.write_text(self._with_own_ports(commands), "utf-8")
        return str(script)

    def _with_own_ports(self, text: str) -> str:
        for usual, own in self.ports.items():
            text = re.sub(rf"\b(localhost|127\.0\.0\.1):{usual}\b", rf"127.0.0.1:{own}", text)
            text = text.replace(f"-port {usual}", f"-port {own}")
        return text


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    following = Stranger(tmp_path_factory.mktemp("operations"))
    try:
        yield following
    finally:
        following.leave()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_block(stranger: Stranger, block: Block) -> None:
    worker_ends = "spawn_main" in block.text
    restarts = stranger.restarts() if worker_ends else 0
    stranger.follow(block)
    if worker_ends:
        wait_until(lambda: stranger.restarts() == restarts + 1)
        stranger.wait_for("star-server serve")
    if "kill -TERM" in block.text:
        assert stranger.terminals["star-server serve"].wait(60) == 0, "it was drained"


def test_the_page_was_followed_to_its_end(stranger: Stranger) -> None:
    """What its blocks leave behind, so that none of them was passed over."""
    names = {path.name for path in stranger.folder.iterdir()}
    assert names >= {"server.log", "apple.png", "apple.json", "spans.json", "watch", "keys.yaml"}
    assert "web-shop-2" in (stranger.folder / "new-key").read_text()
    assert "invalid_api_key" in (stranger.folder / "refused.json").read_text()
    assert (stranger.folder / "apple.png").read_bytes().startswith(b"\x89PNG")
