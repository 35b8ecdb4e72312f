"""The Dockerfile agrees with the repository, as far as that shows without building it."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server.settings import Settings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
BUILD_ONLY = re.compile(
    r"\b(gcc|g\+\+|clang|build-essential|python3-dev|make|cmake|git|pytest|mypy|ruff)\b|\[test"
)


@dataclass
class Stage:
    """A build stage: what it starts from, and its instructions in order as (name, arguments)."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """The arguments of every instruction of that name."""
        return [arguments for instruction, arguments in self.instructions if instruction == name]

    def last(self, name: str) -> str:
        """The arguments of the one that counts; empty if there is none."""
        return next(reversed(self.all(name)), "")

    @property
    def environment(self) -> dict[str, str]:
        """What its ENV lines set."""
        pairs = (word.partition("=") for line in self.all("ENV") for word in shlex.split(line))
        return {name: value for name, _, value in pairs}


def read_stages(dockerfile: str) -> dict[str, Stage]:
    """The stages by name, continued lines joined; comments and what stands before the first are left out."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, arguments = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = arguments.partition(" AS ")
            stage = stages[name] = Stage(name, base)
        elif instruction and stages:
            stage.instructions.append((instruction, arguments.strip()))
    return stages


def copied(stage: Stage) -> list[str]:
    """The paths that it copies from the repository."""
    copies = (shlex.split(arguments) for arguments in stage.all("COPY"))
    return [path for words in copies if not words[0].startswith("--from=") for path in words[:-1]]


def ignored(path: str, rules: list[str]) -> bool:
    """Whether .dockerignore keeps ``path`` out of the build context; the last rule that matches decides."""
    verdict = False
    for rule in rules:
        pattern = rule.removeprefix("!").strip("/")
        if fnmatch.fnmatch(path, pattern) or path.startswith(pattern + "/"):
            verdict = not rule.startswith("!")
    return verdict


def locked(install: str) -> bool:
    """Whether pip, with these arguments, takes tested versions, or nothing but the project's own wheel."""
    return "-c constraints.txt" in install or {"--no-deps", "--no-index"} <= set(install.split())


def problems(dockerfile: str, dockerignore: str, root: Path) -> list[str]:
    """What is wrong with the two files for the repository at ``root``, a sentence each."""
    stages = read_stages(dockerfile)
    rules = [line for line in dockerignore.splitlines() if line and not line.startswith("#")]
    found = []
    for stage in stages.values():
        for path in (path.strip("/") for path in copied(stage)):
            if not (root / path).exists():
                found.append(f"{path} is copied and does not exist")
            elif ignored(path, rules):
                found.append(f"{path} is copied and kept out by .dockerignore")
        installs = (
            i for run in stage.all("RUN") for i in re.findall(r"pip install ([^&|;]*)", run)
        )
        found += [
            f"pip install {i.strip()} does not use constraints.txt"
            for i in installs
            if not locked(i)
        ]
    final = stages[next(reversed(stages))]
    chain = [final]
    while chain[-1].base in stages:
        chain.append(stages[chain[-1].base])
    for stage in chain:
        found += [
            f"the image has {tool[0]}"
            for run in stage.all("RUN")
            if (tool := BUILD_ONLY.search(run))
        ]
    if not re.fullmatch(r"[1-9]\d*:0", final.last("USER")):
        found.append(f"USER {final.last('USER')} is not an unprivileged user of group 0")
    if final.environment.get("HF_HUB_OFFLINE") != "1":
        found.append("it is not offline by default")
    command = [
        *json.loads(final.last("ENTRYPOINT") or "[]"),
        *json.loads(final.last("CMD") or "[]"),
    ]
    if command[:3] != ["tini", "--", "star-server"]:
        found.append(f"{command} does not start star-server under tini")
    if "/readyz" not in final.last("HEALTHCHECK"):
        found.append("HEALTHCHECK does not ask /readyz")
    return found


FILES = {name: (ROOT / name).read_text("utf-8") for name in ("Dockerfile", ".dockerignore")}
STAGES = read_stages(FILES["Dockerfile"])
FINAL = STAGES[next(reversed(STAGES))]


def test_it_agrees_with_the_repository() -> None:
    assert problems(FILES["Dockerfile"], FILES[".dockerignore"], ROOT) == []


def test_the_wheel_has_all_that_it_is_built_from() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]
    needed = {
        *build["targets"]["wheel"]["only-include"],
        PROJECT["readme"],
        *PROJECT["license-files"],
    }
    assert needed <= {path.strip("/") for path in copied(STAGES["wheel"])}


def test_the_command_and_its_settings_exist() -> None:
    assert "star-server" in PROJECT["scripts"]
    ours = {name for name in FINAL.environment if name.startswith("STAR_")}
    assert ours <= {f"STAR_{name.upper()}" for name in Settings.model_fields}
    settings = Settings.model_validate(
        {name.removeprefix("STAR_").lower(): FINAL.environment[name] for name in ours}
    )
    assert (settings.host, str(settings.port)) == ("0.0.0.0", FINAL.last("EXPOSE"))
    assert settings.offline


def test_caches_are_on_the_volume() -> None:
    (volume,) = json.loads(FINAL.last("VOLUME"))
    folders = {
        value for name, value in FINAL.environment.items() if re.search(r"HOME$|CACHE_DIR$", name)
    }
    assert len(folders) >= 4
    assert all(folder == volume or folder.startswith(volume + "/") for folder in folders), folders


def test_both_variants_have_an_image() -> None:
    variants = {name.removeprefix("system-") for name in STAGES if name.startswith("system-")}
    assert variants == {"cuda", "cpu"}
    assert re.search(r"^ARG VARIANT=cuda$", FILES["Dockerfile"], re.M)


@pytest.mark.parametrize("extras", ["", "ray", "xformers,ray"])
def test_requirements_are_those_of_the_project(tmp_path: Path, extras: str) -> None:
    (run,) = [run for run in STAGES["dependencies"].all("RUN") if "requirements.txt" in run]
    code = shlex.split(run)[shlex.split(run).index("-c") + 1]
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    written = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"EXTRAS": extras},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = list(PROJECT["dependencies"])
    for name in filter(None, extras.split(",")):
        expected += PROJECT["optional-dependencies"][name]
    assert written.stdout.splitlines() == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("COPY server/ server/", "COPY servers/ servers/", "servers is copied and does not exist"),
        (
            "COPY server/ server/",
            "COPY tests/ tests/",
            "tests is copied and kept out by .dockerignore",
        ),
        (
            "-c constraints.txt hatchling",
            "hatchling",
            "pip install --no-cache-dir hatchling does not use",
        ),
        ("--no-index --no-deps", "--no-index", "does not use constraints.txt"),
        ("python3 tini", "python3 gcc tini", "the image has gcc"),
        ("USER 10001:0", "USER 0:0", "USER 0:0 is not"),
        ("USER 10001:0", "USER star", "USER star is not"),
        ("HF_HUB_OFFLINE=1", "HF_HUB_OFFLINE=0", "not offline"),
        ('"tini", "--", ', "", "does not start star-server under tini"),
        ("/readyz", "/livez", "does not ask /readyz"),
    ],
)
def test_a_problem_is_found(tmp_path: Path, old: str, new: str, expected: str) -> None:
    good = FILES["Dockerfile"]
    assert old in good
    for path in (path for stage in STAGES.values() for path in (*copied(stage), "tests")):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
    assert problems(good, FILES[".dockerignore"], tmp_path) == []
    found = problems(good.replace(old, new), FILES[".dockerignore"], tmp_path)
    assert found
    assert all(expected in problem for problem in found)
