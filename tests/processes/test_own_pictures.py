"""docs/own-pictures.md, followed with networks of toy size, from a folder of pictures to a model that paints them."""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from server.commands.cli import main as star_server
from star_model import load_model
from tests.live_server import ROOT
from tests.markdown_blocks import read_blocks, read_commands
from tests.readme_commands import is_run
from tests.star_model.tiny import tiny_bert, write_tiny_model
from tests.training.toy import TOY, at_toy_size
from training.train import UNTIMED

PAGE = (ROOT / "docs" / "own-pictures.md").read_text("utf-8")
COMMANDS = [
    command
    for block in read_blocks(PAGE)
    if block.language == "bash"
    for command in read_commands(block.text)
]


def follow(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of the page in this process; what installs or serves is checked instead."""
    if command.startswith("printf"):
        subprocess.run(["bash", "-c", command], check=True)
        return
    program, *words = shlex.split(command)
    match program.removeprefix(".venv/bin/"), words:
        case "star-server", ["generate", *_]:
            assert star_server(words) == 0
        case "python", ["-m", module, *flags]:
            run_module(module, flags, monkeypatch)
        case _:
            assert not is_run(command)


def run_module(module: str, flags: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one of the tools of training; the page's minutes are a few seconds here."""
    short = [str(UNTIMED + 0.1) if before == "--minutes" else word for before, word in pairs(flags)]
    monkeypatch.setattr("sys.argv", [module, *short])
    importlib.import_module(module).main()


def pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """Each word with the one before it."""
    return list(zip(["", *words], words, strict=False))


def test_from_a_folder_to_a_model_that_paints_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_toy_size(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STAR_MODEL", str(write_tiny_model(tmp_path / "tiny")))
    tiny_bert(16, 64).save(tmp_path / "weights" / "star-mini" / "text_encoder")
    for command in COMMANDS:
        follow(command, monkeypatch)

    prepared = json.loads((tmp_path / "runs/mine/data/pictures/pictures.json").read_text())
    assert len(prepared["pictures"]) == 30
    tokens = list((tmp_path / "runs/mine/tokens").glob("0*/captions.json"))
    assert sum(len(json.loads(file.read_text())) for file in tokens) == 3 * 30
    for run in ("tokenizer/reconstructions.png", "transformer/samples.png"):
        assert (tmp_path / "runs/mine" / run).is_file()

    model = load_model(tmp_path / "runs/mine/model", device="cpu", verify=True)
    assert (model.config.name, model.config.patch_nums) == ("mine", TOY.patch_nums)
    assert model.reader is None
    assert model.about.description == "Trained on 30 pictures with captions."
    assert "a fox, flat style" in model.about.examples
    exported = load_model(tmp_path / "runs/my-cats", device="cpu", verify=True)
    assert exported.config.name == "my-cats"
    assert exported.about.description == "Draws my cats."
    painted = sorted((tmp_path / "painted").glob("*.png"))
    assert len(painted) == 3
    for file in painted:
        with Image.open(file) as image:
            assert image.size == (512, 512)
    assert "left out" not in capsys.readouterr().out
