"""What to do with a command in the README: run it, or check it against the repository.

A command that would fetch, build an image, train, or serve for ever is not run; the parts of it that can be
wrong (targets, flags, extras, variables, paths) are looked up instead. A command that no rule knows is
refused, so that none stands in the README untested.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCAL = re.compile(r"\b(localhost|127\.0\.0\.1):8000\b")
EMBEDDED_MODEL = "star-mini"
ASSIGNMENT = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)=")

Words = Sequence[str]


def is_run(command: str) -> bool:
    """True if ``command`` is to be run; otherwise it has been checked.

    Raises:
        AssertionError: it names something that does not exist, or no rule knows it.
    """
    words = shlex.split(command, comments=True)
    while words and (assigned := ASSIGNMENT.match(words[0])):
        check_variable(assigned[1])
        words.pop(0)
    if not words:
        return False
    program = words[0].removeprefix(".venv/bin/")
    rule = RULES.get(program)
    assert rule is not None, f"no rule says how to test: {command}"
    return rule(words[1:])


# ---- one rule for each program: True to run, False when checked --------------------------------------------
def curl(words: Words) -> bool:
    assert any(LOCAL.search(word) for word in words), "curl speaks to localhost:8000 alone"
    assert "--json" not in words, "curl before 7.82 has no --json; give -H and -d"
    makes_images = any(re.search(r"/(generate|generations|edits)$", word) for word in words)
    kept = "-o" in words or "|" in words
    assert kept or not makes_images, "an answer in base64 fills the terminal; give -o"
    return True


def star_server(words: Words) -> bool:
    assert words, "star-server needs a command"
    shipped = option(words, "--model") in (None, EMBEDDED_MODEL)
    if words[0] in ("generate", "info", "settings") and shipped:
        return True
    check_flags(["-m", "server", words[0]], words[1:])
    return False


def printf(words: Words) -> bool:
    assert words, "printf needs something to print"
    return True


def python(words: Words) -> bool:
    if list(words) == ["-m", "venv", ".venv"]:
        return False
    assert words[:1] == ["-m"], f"a module of this repository, not {words}"
    module = ROOT.joinpath(*words[1].split("."))
    assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), (
        f"no module {words[1]}"
    )
    check_flags(words[:2], words[2:])
    return False


def make(words: Words) -> bool:
    text = (ROOT / "Makefile").read_text("utf-8")
    for word in words:
        if assigned := ASSIGNMENT.match(word):
            assert re.search(rf"^{assigned[1]} \?=", text, re.M), (
                f"the Makefile has no variable {assigned[1]}"
            )
        else:
            assert re.search(rf"^{re.escape(word)}:", text, re.M), (
                f"the Makefile has no target {word}"
            )
    arguments = next((word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")), "")
    if "serve" in words:
        check_flags(["-m", "server", "serve"], shlex.split(arguments))
    return False


def git(words: Words) -> bool:
    assert words[:1] == ["clone"], f"git {' '.join(words)} is not tested"
    assert len(words) == 2, "git clone and an address"
    assert words[1].removesuffix(".git").endswith("/star-server"), "the clone is called star-server"
    return False


def cd(words: Words) -> bool:
    assert list(words) == ["star-server"], "the only folder to enter is the clone"
    return False


def pip(words: Words) -> bool:
    assert words[:1] == ["install"], f"pip {' '.join(words)} is not tested"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    for word in words:
        if named := re.match(r"^\.\[([\w,-]+)\]$", word):
            unknown = set(named[1].split(",")) - set(extras)
            assert not unknown, f"pyproject.toml has no extra {unknown}"
    constraints = option(words, "-c")
    assert constraints is None or (ROOT / constraints).is_file(), f"no file {constraints}"
    return False


def docker(words: Words) -> bool:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    for before, word in pairwise(words):
        if before == "--build-arg":
            name = word.split("=")[0]
            assert re.search(rf"^ARG {name}\b", dockerfile, re.M), (
                f"the Dockerfile has no argument {name}"
            )
        if before in ("-e", "--env"):
            check_variable(word.split("=")[0])
        if before in ("-p", "--publish"):
            port = word.split(":")[-1]
            assert re.search(rf"^EXPOSE {port}$", dockerfile, re.M), (
                f"the Dockerfile does not expose {port}"
            )
    assert words[:1] in (["build"], ["run"]), f"docker {' '.join(words)} is not tested"
    return False


RULES: dict[str, Callable[[Words], bool]] = {
    "curl": curl,
    "star-server": star_server,
    "printf": printf,
    "python": python,
    "python3": python,
    "make": make,
    "git": git,
    "cd": cd,
    "pip": pip,
    "docker": docker,
}


# ---- looking things up -------------------------------------------------------------------------------------
def option(words: Words, name: str) -> str | None:
    """The value of ``name`` in ``--name value`` or ``--name=value``."""
    for index, word in enumerate(words):
        if word == name and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{name}="):
            return word.split("=", 1)[1]
    return None


def check_flags(program: Words, words: Words) -> None:
    """Raise AssertionError if ``words`` holds a ``--flag`` that ``python <program> --help`` does not name."""
    flags = [word.split("=")[0] for word in words if word.startswith("--")]
    known = help_of(tuple(program)) if flags else set()
    for flag in flags:
        assert flag in known, f"{' '.join(program)} has no flag {flag}"


@cache
def help_of(program: tuple[str, ...]) -> set[str]:
    """The flags in a program's help."""
    run = subprocess.run(
        [sys.executable, *program, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, f"{' '.join(program)} --help: {run.stderr}"
    return set(re.findall(r"--[a-z][\w-]*", run.stdout))


def check_variable(name: str) -> None:
    """Raise AssertionError if ``name`` is spelled like a setting and is none."""
    if name.startswith("STAR_"):
        from server.settings import Settings

        assert name.removeprefix("STAR_").lower() in Settings.model_fields, f"no setting {name}"
