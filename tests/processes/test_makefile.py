"""The Makefile on a fresh machine: it finds a Python, installs once, and says what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Stands for a Python that has venv: it writes down what it was asked, and makes environments of itself.
PYTHON = """\
#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in
*"-m venv "*) for folder; do :; done; mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python" ;;
*"-m pip install "*) cp "$0" "${0%/*}/star-server" ;;
esac
"""
OLD_PYTHON = "#!/bin/sh\nexit 1\n"


class Machine:
    """A checkout in a folder, with a PATH that holds the given Pythons and the system's tools."""

    def __init__(self, folder: Path, **pythons: str) -> None:
        self.checkout = folder / "checkout"
        self.programs = folder / "bin"
        self.log = folder / "log"
        self.checkout.mkdir()
        self.programs.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.checkout)
        (self.checkout / "tests" / "processes").mkdir(parents=True)
        shutil.copy(ROOT / "tests/processes/moto.txt", self.checkout / "tests/processes")
        for tool in ("make", "sh", "mkdir", "cp", "rm", "touch", "basename", "cat"):
            (self.programs / tool).symlink_to(str(shutil.which(tool)))
        for name, script in pythons.items():
            path = self.programs / name.replace("_", ".")
            path.write_text(script)
            path.chmod(0o755)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run make; the Pythons' commands of this run are in :attr:`asked`."""
        self.log.write_text("")
        environment = {"PATH": str(self.programs), "LOG": str(self.log)}
        return subprocess.run(
            ["make", *arguments],
            cwd=self.checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def asked(self) -> list[str]:
        """What the Pythons were asked to do in the last run."""
        return self.log.read_text().splitlines()

    @property
    def installs(self) -> list[str]:
        """The installations among that."""
        return [line for line in self.asked if "pip install" in line]


def test_a_second_run_installs_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path, python3_12=PYTHON)
    assert machine.make("serve", "ARGS=--port 9000").returncode == 0
    (install,) = machine.installs
    assert install.endswith("-m pip install --disable-pip-version-check -c constraints.txt -e .")
    assert machine.asked[-1] == "star-server serve --port 9000"
    assert machine.make("serve").returncode == 0
    assert machine.asked == ["star-server serve"]

    assert machine.make("test").returncode == 0
    pip, install = machine.installs[:2]
    assert pip.endswith("-c constraints.txt pip>=25.1")
    assert install.endswith("-c constraints.txt --group test -e .[train,s3,c2pa,otel]")
    *moto, run = machine.asked[-3:]
    assert [line.split("-m ", 1)[1] for line in moto] == [
        "venv --clear build/moto",
        "pip install --disable-pip-version-check -r tests/processes/moto.txt",
    ]
    assert run == (
        "python -m pytest -q -n logical --maxprocesses 8 --dist loadfile "
        "--no-loadscope-reorder --durations=15"
    )
    assert machine.make("test-fast", "JOBS=0").returncode == 0
    (run,) = machine.asked
    assert run.startswith("python -m pytest -q -n 0 ")
    assert " -m fast " in run


def test_wheels_are_collected_without_an_installation(tmp_path: Path) -> None:
    machine = Machine(tmp_path, python3=PYTHON)
    old = machine.checkout / "dist" / "wheelhouse" / "star_server-0.0.9-py3-none-any.whl"
    old.parent.mkdir(parents=True)
    old.touch()
    assert machine.make("wheelhouse").returncode == 0
    assert not old.exists(), "pip would install it beside the new one, or instead of it"
    assert machine.installs == []
    assert machine.asked[-1] == (
        "python -m pip wheel --disable-pip-version-check -c constraints.txt --wheel-dir dist/wheelhouse ."
    )
    assert machine.make("wheelhouse", "WHEELHOUSE=elsewhere").returncode == 0
    assert "--wheel-dir elsewhere ." in machine.asked[-1]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_change_of_versions_installs_again(tmp_path: Path, name: str) -> None:
    machine = Machine(tmp_path, python3=PYTHON)
    machine.make("install")
    stamp = machine.checkout / ".venv" / ".installed-test+train,s3,c2pa,otel"
    later = stamp.stat().st_mtime + 10
    os.utime(machine.checkout / name, (later, later))
    machine.make("install")
    assert len(machine.installs) == 2


def test_groups_and_extras_are_chosen(tmp_path: Path) -> None:
    machine = Machine(tmp_path, python3=PYTHON)
    chosen = ("install", "TOOLS=test,deploy", "EXTRAS=train,ray")
    assert machine.make(*chosen).returncode == 0
    assert machine.installs[-1].endswith("--group test --group deploy -e .[train,ray]")
    assert machine.make(*chosen).returncode == 0
    assert machine.installs == []


def test_an_old_python_is_passed_over(tmp_path: Path) -> None:
    machine = Machine(tmp_path, python3_13=OLD_PYTHON, python3_12=PYTHON, python3=OLD_PYTHON)
    assert machine.make("install").returncode == 0
    assert "python3.12 -m venv .venv" in machine.asked


def test_without_a_python_it_says_what_to_install(tmp_path: Path) -> None:
    machine = Machine(tmp_path, python3=OLD_PYTHON)
    run = machine.make("serve")
    assert run.returncode != 0
    assert "No Python 3.11 or newer" in run.stderr
    assert "python3-venv" in run.stderr
    assert machine.asked == []


def test_an_environment_whose_python_is_gone_is_made_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path, python3=PYTHON)
    machine.make("install")
    python = machine.checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert machine.make("install").returncode == 0
    assert "python3 -m venv .venv" in machine.asked


def test_a_failed_install_is_tried_again(tmp_path: Path) -> None:
    broken = PYTHON + 'case "$*" in *"pip install"*) exit 1 ;; esac\n'
    machine = Machine(tmp_path, python3=broken)
    assert machine.make("install").returncode != 0
    assert machine.make("install").returncode != 0
    assert len(machine.installs) == 1
