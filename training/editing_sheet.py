"""Draw the pictures of what editing does: ``python -m training.editing_sheet --out docs/images``.

Each row is one image and what becomes of it. Prompts, places and seeds are fixed here, and nothing is picked: every
row takes the seeds from 0 on, in order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from star_model import Engine, StarModel, load_model
from star_model.engine.editing import make_edit, place_on_canvas
from training.contact_sheet import grid, label
from training.machine import command
from training.painting import paint

SCENE, SCENE_SEED = "a red apple on a blue background", 1
MASK = (0.6, 0.05, 0.95, 0.4)
"""What is painted into the scene: left, top, right, bottom, as fractions."""
INSIDE = ("a yellow banana on a blue background", "a balloon on a blue background")
PLACE = (0.25, 0.25, 0.75, 0.75)
"""Where the scene stands on the larger canvas."""
AROUND = ("a blue background", "a red apple on a blue background")
VARIED = "a green apple on a blue background"
KEPT = (2, 4, 6, 8)
SIDE = 192
"""Of a picture on the sheet, in pixels."""


def outlined(image: torch.Tensor, box: tuple[float, float, float, float], text: str) -> Image.Image:
    """A tile with a box drawn on the image, in fractions of it."""
    tile = label(image.numpy(), text, SIDE)
    corners = [4 + edge * SIDE for edge in box]  # the tile's margin
    ImageDraw.Draw(tile).rectangle(corners, outline="white", width=2)
    return tile


def sheet(model: StarModel) -> Image.Image:
    """In-painting, out-painting and variations of one scene, a row each."""
    engine, side = Engine(model, slots=1), model.config.image_size
    scene = torch.from_numpy(paint(engine, SCENE, SCENE_SEED))
    tiles = [outlined(scene, MASK, f"{SCENE} (seed {SCENE_SEED})")]
    left, top, right, bottom = (round(edge * side) for edge in MASK)
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    edit = make_edit(model, scene, mask)
    for prompt in INSIDE:
        for seed in range(2):
            image = paint(engine, prompt, seed, edit=edit)
            tiles.append(label(image, f"{prompt} (seed {seed})", SIDE))

    canvas, rest = place_on_canvas(scene, PLACE, side)
    tiles.append(outlined(canvas, PLACE, "the same on a larger canvas; around it:"))
    edit = make_edit(model, canvas, rest)
    for prompt in AROUND:
        for seed in range(2):
            image = paint(engine, prompt, seed, edit=edit)
            tiles.append(label(image, f"{prompt} (seed {seed})", SIDE))

    tiles.append(label(scene.numpy(), f"the same; as {VARIED}:", SIDE))
    for seed, kept in enumerate(KEPT):
        edit = make_edit(model, scene, keep_scales=kept)
        image = paint(engine, VARIED, seed, edit=edit)
        text = f"{kept} of {len(model.config.patch_nums)} scales kept (seed {seed})"
        tiles.append(label(image, text, SIDE))
    return grid(tiles, 5)


@command
def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description="Draw the pictures of what editing does.")
    parser.add_argument("--model", type=Path, default=Path("weights/star-mini"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    sheet(load_model(arguments.model)).save(arguments.out / "editing.png", optimize=True)


if __name__ == "__main__":
    main()
