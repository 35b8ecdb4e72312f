"""The Dockerfile's own commands, run in a folder instead of an image: what they build, and how it is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.test_dockerfile import FINAL, STAGES, Stage, copied
from tests.live_server import ROOT

STEPS = ("dependencies", "wheel", "inventory", "runtime")
"""The stages that run pip. What apt-get installs before them, this machine must have."""


@dataclass(frozen=True)
class Image:
    """A folder that stands for the root of the image's file system."""

    root: Path

    def path(self, path: str) -> Path:
        """Where a path of the image is."""
        return self.root / path.removeprefix("/")

    def here(self, text: str) -> str:
        """A command or a value of the image with its paths moved into the folder."""
        return re.sub(r"(?<![\w.}])/(opt/star|opt/builder|dist|models)\b", rf"{self.root}/\1", text)

    @property
    def environment(self) -> dict[str, str]:
        """What the image sets, and nothing of this process but what pip and Python need to work."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("PIP_", "SSL_", "REQUESTS_"))
        }
        image = {name: self.here(value) for name, value in FINAL.environment.items()}
        image["PATH"] = f"{self.path('/opt/star/bin')}:/usr/local/bin:/usr/bin:/bin"
        return kept | {"OMP_NUM_THREADS": "1"} | image

    def build(self) -> None:
        """Replay every stage.

        Raises:
            subprocess.CalledProcessError: a command failed; its output says why.
        """
        for folder in ("build", "dist", "models/cache"):
            (self.root / folder).mkdir(parents=True)
        for name in STEPS:
            for instruction, arguments in STAGES[name].instructions:
                if instruction == "COPY":
                    self._copy(Stage(name, "", [(instruction, arguments)]))
                elif instruction == "RUN" and "pip" in arguments:
                    self._run(arguments)

    def _copy(self, one: Stage) -> None:
        for path in copied(one):
            source, target = ROOT / path, self.root / "build" / path
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)

    def _run(self, arguments: str) -> None:
        command = self.here(re.sub(r"--mount=\S+", "", arguments))
        # The image's python3 is that of its distribution; here it is the one that runs the tests.
        python = str(Path(sys.base_prefix) / "bin")
        environment = {**os.environ, "PATH": f"{python}:{os.environ['PATH']}", "EXTRAS": ""}
        for name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"):
            environment.pop(name, None)
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.root / "build",
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
