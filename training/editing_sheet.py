"""Draw the pictures of what editing does: ``python -m training.editing_sheet --out docs/images``.

Each row is one image and what becomes of it. Prompts, places and seeds are fixed here, and nothing is picked: every
row takes the seeds from 0 on, in order.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from star_model import Engine, StarModel, load_model
from star_model.engine.editing import Edit, make_edit
from training.contact_sheet import grid, label
from training.machine import command
from training.painting import paint

SCENE, SCENE_SEED = "a fox, flat style, on a white background", 1
BACKGROUNDS = (
    "a fox, flat style, on a beach",
    "a fox, flat style, on a green background",
    "a fox, flat style, in the snow",
    "a fox, flat style, in a flower meadow",
)
THINGS = (
    "a penguin, flat style, on a white background",
    "a rocket, flat style, on a white background",
    "a red apple, flat style, on a white background",
    "a castle, flat style, on a white background",
)
PLACE = (0.125, 0.125, 0.875, 0.875)
"""Where the thing is, which is replaced: left, top, right, bottom, as fractions."""
VARIED = "a fox, flat style, on a blue background"
KEPT = (1, 2, 3, 4)
EDGE, MARGIN = 40, 4
"""The thing differs from the background by more levels than `EDGE`; `MARGIN` pixels around it are left as they are."""
SIDE = 192
"""Of a picture on the sheet, in pixels."""


def outlined(image: torch.Tensor, box: tuple[float, float, float, float], text: str) -> Image.Image:
    """A tile with a box drawn on the image, in fractions of it."""
    tile = label(image.numpy(), text, SIDE)
    corners = [4 + edge * SIDE for edge in box]  # the tile's margin
    ImageDraw.Draw(tile).rectangle(corners, outline="black", width=2)
    return tile


def behind(image: torch.Tensor) -> torch.Tensor:
    """The background of an image (H, W, 3) of one thing on a colour, as a mask (H, W), true there."""
    colour = image[0, 0].float()
    thing = ((image.float() - colour).abs().amax(-1) > EDGE).float()
    grown = F.max_pool2d(thing[None, None], 2 * MARGIN + 1, stride=1, padding=MARGIN)
    return grown[0, 0] == 0


def sheet(model: StarModel) -> Image.Image:
    """Another background, another thing, and variations of one scene, a row each."""
    engine, side = Engine(model, slots=1), model.config.image_size
    scene = torch.from_numpy(paint(engine, SCENE, SCENE_SEED))
    mask = behind(scene)
    shown = scene.clone()
    shown[mask] = 128
    tiles = [label(shown.numpy(), f"{SCENE}, masked:", SIDE)]
    tiles += edited(engine, BACKGROUNDS, make_edit(model, scene, mask))

    left, top, right, bottom = (round(edge * side) for edge in PLACE)
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    tiles.append(outlined(scene, PLACE, "the same, a square of it masked:"))
    tiles += edited(engine, THINGS, make_edit(model, scene, mask))

    tiles.append(label(scene.numpy(), f"the same; as {VARIED}:", SIDE))
    for seed, kept in enumerate(KEPT):
        edit = make_edit(model, scene, keep_scales=kept)
        image = paint(engine, VARIED, seed, edit=edit)
        text = f"{kept} of {len(model.config.patch_nums)} scales kept (seed {seed})"
        tiles.append(label(image, text, SIDE))
    return grid(tiles, 5)


def edited(engine: Engine, prompts: Sequence[str], edit: Edit) -> list[Image.Image]:
    """A tile for each prompt, with the seeds from 0 on."""
    return [
        label(paint(engine, prompt, seed, edit=edit), f"{prompt} (seed {seed})", SIDE)
        for seed, prompt in enumerate(prompts)
    ]


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
