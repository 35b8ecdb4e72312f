"""The command line: what it refuses, and how it says so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from server import __version__
from server.commands.cli import main
from server.commands.generate import Generate
from server.commands.image_files import output_paths
from server.errors import UsageError
from server.setting_groups import GROUPS
from tests.live_server import ROOT
from tests.star_model.tiny import write_tiny_model


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence that a refused command ends with."""
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("star-server: ")
    assert output.err.endswith((".\n", "?\n"))
    assert output.err.count("\n") == 1
    return output.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("serve, generate, info, convert, plan, key, settings", "star-server --help")),
        (("--port", "1"), ("Unknown command --port", "serve, generate")),
        (("srve",), ("Unknown command srve", "did you mean serve?")),
        (("serve", "--prot", "1"), ("Unknown flag --prot", "did you mean --port?")),
        (("serve", "--keepalive-s", "1"), ("--keepalive-s is called --stream-comment-s now",)),
        (("serve", "--keepalive-s=1"), ("--keepalive-s is called --stream-comment-s now",)),
        (("serve", "--model", "star-mni"), ("unknown model 'star-mni'; did you mean star-mini?",)),
        (("serve", "--xyzzy"), ("Unknown flag --xyzzy", "serve --help")),
        (("info", "--model", "x"), ("model takes no flag", "star-server info MODEL")),
        (("serve", "--port", "99999"), ("port must be an integer from 0 to 65535", '"99999"')),
        (("serve", "--port"), ("port", "one argument")),
        (("serve", "--config", "/nowhere.yaml"), ("/nowhere.yaml cannot be read",)),
        (("generate",), ("PROMPT", "--prompts")),
        (("generate", "a", "--prompts", "b.txt"), ("not both",)),
        (("generate", ""), ("prompt must be a string of 1 to 2,000 characters", "empty")),
        (("generate", " "), ("prompt must be a string of 1 to 2,000 characters", "empty")),
        (("generate", "a", "red", "apple"), ("Unexpected argument red", "in quotes")),
        (("serve", "star-mini"), ("Unexpected argument star-mini", "serve --help")),
        (("generate", "a", "--n", "0"), ("n must be an integer from 1", '"0"')),
        (
            ("generate", "a", "--seed", "-1"),
            ("seed must be an integer from 0 to 4294967295", '"-1"'),
        ),
        (("generate", "a", "--guidance-scale", "nan"), ("a finite number", '"nan"')),
        (("generate", "a", "-o", "/nowhere/a.png"), ("/nowhere does not exist",)),
        (("generate", "a", "-o", "a.gif"), ("a.gif must end in .png, .webp, .jpg, .jpeg",)),
        (("generate", "a", "-o", "a.png", "--quality", "5"), ("--quality", "png")),
        (("info", "--jsn"), ("did you mean --json?",)),
        (("convert", "--out", "x"), ("--transformer", "--vqvae")),
    ],
)
def test_a_mistake_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    message = refused(capsys, *arguments)
    for word in words:
        assert word in message


@pytest.mark.parametrize(("kind", "off"), [("rising", "0"), ("constant", "0"), ("constant", "1")])
def test_a_negative_prompt_without_guidance_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str, off: str
) -> None:
    model = str(write_tiny_model(tmp_path / "model", guidance=kind))
    flags = ("--model", model, "--negative-prompt", "b", "--guidance-scale", off)
    message = refused(capsys, "generate", "a", "-o", str(tmp_path / "a.png"), *flags)
    assert f"--negative-prompt needs guidance, and guidance_scale {off} is none" in message
    assert "--guidance-scale, to 2" in message


def test_an_unknown_variable_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAR_PROT", "1")
    assert "did you mean STAR_PORT?" in refused(capsys, "serve")


def test_a_port_that_is_taken_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from server.commands.serve import listen

    (taken,) = listen("127.0.0.1", 0)
    with taken:
        message = refused(capsys, "serve", "--port", str(taken.getsockname()[1]))
    assert "Choose another with --host or --port" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["help"],
        ["serve", "--help"],
        ["help", "serve"],
        ["generate", "-h"],
        ["info", "-h"],
    ],
)
def test_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: star-server" in shown
    assert "\0" not in shown


def test_the_help_shows_settings_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = capsys.readouterr().out
    titles = [line[:-1] for line in shown.splitlines() if re.fullmatch(r"\S.*:", line)]
    assert titles[0] == "options"
    assert set(titles[1:]) == set(GROUPS)
    sections = dict(zip(titles, re.split(r"(?m)^\S.*:$", shown)[1:], strict=True))
    for title, names in GROUPS.items():
        flags = re.findall(r"(?m)^  --([a-z0-9-]+)", sections[title])
        assert set(flags) == {name.replace("_", "-") for name in names}
    assert set(re.findall(r"--([a-z-]+)", sections["options"])) == {"help", "config"}


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_a_reader_that_leaves_is_no_fault(flag: str) -> None:
    """``star-server --help | head -1``."""
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "server", flag]
    run = subprocess.run(
        command,
        cwd=ROOT,
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(writes)
    assert run.returncode in (0, 141)  # argparse does not even notice
    assert run.stderr == ""


def test_a_cache_that_cannot_be_written_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    cache = ("--cache-dir", str(tmp_path / "file"))
    message = refused(
        capsys, "generate", "a", "--model", "star-256", "-o", str(tmp_path / "a.png"), *cache
    )
    assert f"{tmp_path}/file/models" in message
    assert "--cache-dir" in message


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"star-server {__version__}\n"


@pytest.mark.parametrize("prompt", ["None", "null", "-- a dash", "[1, 2]", "a=b", "🍎", '{"a": 1}'])
def test_any_prompt_reaches_the_command(monkeypatch: pytest.MonkeyPatch, prompt: str) -> None:
    seen: list[Generate] = []
    monkeypatch.setattr(Generate, "cli_cmd", seen.append)
    assert main(["generate", "--n=2", "--", prompt]) == 0
    assert (seen[0].prompt, seen[0].n) == (prompt, 2)


def test_settings_of_the_server_do_not_disturb_the_other_commands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STAR_PORT", "1")
    monkeypatch.setenv("STAR_MODEL", "elsewhere")
    seen: list[Generate] = []
    monkeypatch.setattr(Generate, "cli_cmd", seen.append)
    assert main(["generate", "a", "-n", "4", "-o", "x.png"]) == 0
    assert (seen[0].model, seen[0].n, seen[0].output) == ("elsewhere", 4, Path("x.png"))


def test_several_images_are_numbered(tmp_path: Path) -> None:
    assert output_paths(tmp_path / "apple.png", 1) == [tmp_path / "apple.png"]
    assert output_paths(tmp_path / "apple.png", 2) == [
        tmp_path / "apple-1.png",
        tmp_path / "apple-2.png",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        output_paths(tmp_path / "a.png", 1)
