"""A tiny data folder, written by the code that the real one is written by."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from training.sources import STYLES
from training.sprites import Pixels, SpriteWriter, premultiply

SIZE = 32

# No name holds a colour or a style, so that those found in a caption are what it says of the scene.
CONCEPTS = {
    "fox": ("animals-nature", "animal-mammal"),
    "owl": ("animals-nature", "animal-bird"),
    "cactus": ("animals-nature", "plant-other"),
    "parrot": ("animals-nature", "animal-bird"),
    "turtle": ("animals-nature", "animal-reptile"),
    "banana": ("food-drink", "food-fruit"),
    "hamburger": ("food-drink", "food-prepared"),
    "lollipop": ("food-drink", "food-sweet"),
    "castle": ("travel-places", "place-building"),
    "rocket": ("travel-places", "transport-air"),
    "bicycle": ("travel-places", "transport-ground"),
    "radio": ("objects", "music"),
    "violin": ("objects", "musical-instrument"),
    "scissors": ("objects", "office"),
}


def drawing(row: int, column: int) -> Pixels:
    """A half-transparent square with an opaque left half whose colour tells (row, column)."""
    straight = np.zeros((SIZE, SIZE, 4), np.uint8)
    straight[4:28, 4:28] = (200, 10 + 10 * row, 20 + 60 * column, 128)
    straight[4:28, 4:16, 3] = 255
    return premultiply(straight)


def mosaic(row: int, column: int) -> Pixels:
    """An opaque square of coloured tiles that looks like no other."""
    tiles = np.random.default_rng((row, column)).integers(0, 256, (4, 4, 3), np.uint8)
    straight = np.zeros((SIZE, SIZE, 4), np.uint8)
    straight[4:28, 4:28, :3] = tiles.repeat(6, axis=0).repeat(6, axis=1)
    straight[4:28, 4:28, 3] = 255
    return premultiply(straight)


def write_fake_data(
    folder: Path,
    concepts: dict[str, tuple[str, str]] = CONCEPTS,
    draw: Callable[[int, int], Pixels] = drawing,
) -> Path:
    """Fill `folder` with `concepts` in all styles and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [
        {
            "label": label,
            "hexcode": f"{i:x}",
            "group": group,
            "subgroup": subgroup,
            "tags": ["thing"],
        }
        for i, (label, (group, subgroup)) in enumerate(concepts.items())
    ]
    (folder / "emojibase.json").write_text(json.dumps(entries), encoding="utf-8")
    for column, style in enumerate(STYLES):
        writer = SpriteWriter(folder / "sprites", style, source="fake@1", size=SIZE)
        for row, label in enumerate(concepts):
            writer.add(label, draw(row, column))
        writer.close()
    return folder
