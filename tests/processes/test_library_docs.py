"""Runs docs/library.md and docs/library.ipynb with the default model: their Python in order, in one namespace each."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.markdown_blocks import Block, read_blocks

ROOT = Path(__file__).parents[2]
BLOCKS = read_blocks((ROOT / "docs" / "library.md").read_text("utf-8"))
NOTEBOOK = ROOT / "docs" / "library.ipynb"
SAVED = {
    *("apple", "stronger", "drawn", "many-0", "many-1", "many-2", "inside", "around", "varied"),
    *("rocket-3", "rocket-6", "rocket", "fox", "crab"),
}
"""Images that the page saves, without their extension."""


def run(blocks: list[Block]) -> dict[str, Any]:
    """Execute the blocks one after the other; return their names, such as ``engine``."""
    names: dict[str, Any] = {}
    for block in blocks:
        if block.language == "bash":
            shell(block.text)
            continue
        assert block.language == "python", f"line {block.line}: no way to run {block.language!r}"
        exec(compile(block.text, f"docs/library.md, {block.name}", "exec"), names)
    return names


def shell(text: str) -> None:
    """Run commands in the current folder, with this environment's programs."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{text}"],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the page's blocks have run."""
    folder = tmp_path_factory.mktemp("library")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        names = run(BLOCKS)
    assert names["engine"].free_slots == names["engine"].total_slots  # every image was finished
    return folder


def pixels(path: Path) -> torch.Tensor:
    """uint8 (H, W, 3)."""
    with Image.open(path) as image:
        assert image.mode == "RGB"
        data = bytearray(image.tobytes())
        return torch.frombuffer(data, dtype=torch.uint8).view(image.height, image.width, 3)


def test_every_image_of_the_page_is_saved(folder: Path) -> None:
    assert {path.stem for path in folder.glob("*.png")} == SAVED
    assert all(pixels(folder / f"{name}.png").shape == (512, 512, 3) for name in SAVED)


def test_previews_and_images_differ(folder: Path) -> None:
    images = [pixels(folder / f"{name}.png") for name in SAVED]
    assert not any(torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


def test_the_notebook_shows_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs its cells as Jupyter does: what the last line of a cell says is shown below it."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown: list[Any] = []
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    for number, cell in enumerate(c for c in cells if c["cell_type"] == "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names))
    assert sum(isinstance(value, Image.Image) for value in shown) >= 4


def test_the_command_of_the_page_writes_a_folder_and_its_record(folder: Path) -> None:
    lines = [json.loads(x) for x in (folder / "out" / "images.jsonl").read_text().splitlines()]
    assert [line["line"] for line in lines] == [1, 1, 2, 2]
    assert all(pixels(folder / "out" / line["file"]).shape == (512, 512, 3) for line in lines)


def test_in_painting_keeps_every_pixel_outside_the_mask(folder: Path) -> None:
    before, after = pixels(folder / "apple.png").clone(), pixels(folder / "inside.png").clone()
    changed = (before != after).any(-1)
    assert changed[40:192, 320:472].any()
    changed[40:192, 320:472] = False
    assert not changed.any()


def test_a_block_that_fails_is_a_failure() -> None:
    with pytest.raises(NameError, match="unknown"):
        run([Block("python", "unknown + 1", 1)])
    with pytest.raises(AssertionError, match="no way to run 'fish'"):
        run([Block("fish", "make serve", 1)])
