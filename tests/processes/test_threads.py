"""Every entry point limits how long OpenMP threads spin, and does so before torch is loaded."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from star_model.threads import SPIN_COUNT
from tests.live_server import ROOT

# Installed in a process and in all that it starts: notes the variables when torch is first imported and refuses
# the import, so that a test does not have to wait for it.
WATCH = """
import json, os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            names = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
            seen = {name: os.environ[name] for name in names if name in os.environ}
            with open(os.environ["SPIN_WATCH"], "a") as file:
                file.write(json.dumps([os.getpid(), seen]) + "\\n")
            raise ImportError("torch is refused by a test")

sys.meta_path.insert(0, Watch())
"""
CONSOLE_SCRIPT = "import sys; from server.commands.cli import main; sys.exit(main())"
SERVE = ["-m", "server", "serve", "--port", "0"]

ENTRIES = {
    "library": ["-c", "import star_model; star_model.Engine"],
    "one module of the library": ["-c", "import star_model.networks.vqvae"],
    "command line": ["-m", "server", "generate", "a fox"],
    "console script": ["-c", CONSOLE_SCRIPT, "generate", "a fox"],
    "server": SERVE,
    "worker": ["-c", "import server.worker.star_engine, torch"],
    "training": ["-m", "training.contact_sheet", "--help"],
    "training that imports torch first": ["-m", "training.train_transformer", "--help"],
    "benchmark": ["-m", "benchmarks.bench_engine", "--help"],
    "benchmark that imports torch first": ["-m", "benchmarks.bench_compile", "--help"],
    "tests": ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/pure/star_model/test_rope.py"],
}


class Recorder:
    """Runs Python until it, or a process that it starts, first imports torch.

    Args:
        directory: empty; for what is noted.
    """

    def __init__(self, directory: Path) -> None:
        (directory / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
        self.path = directory
        self.notes = directory / "notes.jsonl"
        self.output = directory / "output.txt"

    def run(self, arguments: list[str], env: Mapping[str, str]) -> tuple[bool, dict[str, str]]:
        """Whether the process itself imported torch, not its child, and the variables at that moment."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
        }
        added = {"PYTHONPATH": str(self.path), "SPIN_WATCH": str(self.notes), **env}
        with self.output.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=inherited | added, stdout=output,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                ended = process.poll() is not None
                if self.notes.exists() and (text := self.notes.read_text("utf-8")).endswith("\n"):
                    pid, seen = json.loads(text.splitlines()[0])
                    return pid == process.pid, seen
                if ended:
                    break
                time.sleep(0.02)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise AssertionError(
            f"torch was not imported:\n{self.output.read_text('utf-8', 'replace')}"
        )


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


@pytest.mark.parametrize("entry", ENTRIES)
def test_spinning_is_limited_before_torch_is_imported(recorder: Recorder, entry: str) -> None:
    itself, seen = recorder.run(ENTRIES[entry], {})
    assert seen == {"GOMP_SPINCOUNT": str(SPIN_COUNT)}
    assert itself == (entry != "server"), "a server leaves torch to its worker"


@pytest.mark.parametrize("entry", ["library", "server", "training", "benchmark", "tests"])
@pytest.mark.parametrize("chosen", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_a_users_choice_is_kept(recorder: Recorder, entry: str, chosen: dict[str, str]) -> None:
    _, seen = recorder.run(ENTRIES[entry], chosen)
    assert seen == chosen


def test_a_process_without_our_packages_is_left_alone(recorder: Recorder) -> None:
    assert recorder.run(["-c", "import torch"], {}) == (True, {})


@pytest.mark.skipif(sys.platform != "linux", reason="other wheels of PyTorch bring another OpenMP")
def test_the_openmp_library_of_pytorch_takes_the_limit() -> None:
    env = {**os.environ, "OMP_DISPLAY_ENV": "VERBOSE"}
    env.pop("GOMP_SPINCOUNT", None)
    env.pop("OMP_WAIT_POLICY", None)
    done = subprocess.run(
        [sys.executable, "-c", "import star_model, torch"],
        cwd=ROOT, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" in done.stderr
