"""A sheet of small reference drawings, so that tests can tell what a picture of the default model shows.

``python -m tests.drawings --data runs/data`` writes it anew, from what ``training.prepare`` rendered.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from training.sprites import Pixels, Sprites, SpriteWriter

SHEET = Path(__file__).parent / "data" / "drawings.png"
SIDE = 64
STYLES = ("flat", "3d", "cartoon")
LABELS = (
    "fox", "panda", "penguin", "frog", "crab", "sunflower", "cactus", "red apple", "pineapple", "strawberry",
    "hamburger", "cupcake", "rocket", "castle", "rainbow", "crown",
)  # fmt: skip


def write_sheet(data: Path) -> None:
    """Draw one row a style and one column a label, premultiplied RGBA as :class:`Sprites` has it."""
    sprites = Sprites(data)
    rows = [np.concatenate([_small(sprites.drawing(o, s)) for o in LABELS], axis=1) for s in STYLES]
    Image.fromarray(np.concatenate(rows), "RGBA").save(SHEET, optimize=True)


def _small(drawing: Pixels) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(drawing), "RGBa")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def read_sheet(folder: Path) -> Sprites:
    """The drawings of the sheet, stored in ``folder`` as those of a data folder are."""
    sheet = np.asarray(Image.open(SHEET))
    for row, style in enumerate(STYLES):
        writer = SpriteWriter(
            folder / "sprites", style, source="tests/data/drawings.png", size=SIDE
        )
        for column, label in enumerate(LABELS):
            tile = sheet[row * SIDE :, column * SIDE :][:SIDE, :SIDE]
            writer.add(label, np.ascontiguousarray(tile))
        writer.close()
    return Sprites(folder)


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description="Write the reference drawings of the tests.")
    parser.add_argument(
        "--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote"
    )
    write_sheet(parser.parse_args().data)


if __name__ == "__main__":
    main()
