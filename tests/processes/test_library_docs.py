"""Runs the Python blocks of docs/library.md in order, in one namespace, with the default model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.markdown_blocks import Block, read_blocks

ROOT = Path(__file__).parents[2]
BLOCKS = read_blocks((ROOT / "docs" / "library.md").read_text("utf-8"))
SAVED = ("apple", "rocket-3", "rocket-6", "rocket", "fox", "crab", "inside", "around", "varied")
"""Images that the page saves, without their extension."""


def run(blocks: list[Block]) -> dict[str, Any]:
    """Execute the blocks one after the other; return their names, such as ``engine``."""
    names: dict[str, Any] = {}
    for block in blocks:
        assert block.language == "python", f"line {block.line}: no way to run {block.language!r}"
        exec(compile(block.text, f"docs/library.md, {block.name}", "exec"), names)
    return names


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
    assert {path.stem for path in folder.iterdir()} == set(SAVED)
    assert all(pixels(folder / f"{name}.png").shape == (512, 512, 3) for name in SAVED)


def test_previews_and_images_differ(folder: Path) -> None:
    images = [pixels(folder / f"{name}.png") for name in SAVED]
    assert not any(torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


def test_in_painting_keeps_every_pixel_outside_the_mask(folder: Path) -> None:
    before, after = pixels(folder / "apple.png").clone(), pixels(folder / "inside.png").clone()
    changed = (before != after).any(-1)
    assert changed[40:192, 320:472].any()
    changed[40:192, 320:472] = False
    assert not changed.any()


def test_a_block_that_fails_is_a_failure() -> None:
    with pytest.raises(NameError, match="unknown"):
        run([Block("python", "unknown + 1", 1)])
    with pytest.raises(AssertionError, match="no way to run 'bash'"):
        run([Block("bash", "make serve", 1)])
