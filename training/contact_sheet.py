"""Draw the README's and the model card's pictures: ``python -m training.contact_sheet --out docs/images``.

The prompts and the seeds are fixed here, and nothing is picked: prompt ``i`` is drawn once, with seed ``i``; where a
prompt is drawn more often, with the seeds from 0 on or with one seed and the guidance that is named.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from star_model import Engine, load_model
from training.machine import command
from training.painting import paint
from training.sprites import Pixels

PROMPTS = (
    "a red apple on a blue background",
    "a fox, flat style, on a white background",
    "3d render of a rocket on a yellow background",
    "a cartoon penguin on a light blue background",
    "a guitar on a green background",
    "a snowman, 3d style, on a purple background",
    "a sunflower on a pink background, flat style",
    "a cartoon of a castle on an orange background",
    "an elephant on a turquoise background",
    "a slice of pizza, flat style, on a beige background",
    "a sailboat on a navy background, 3d style",
    "a cartoon butterfly on a gray background",
    "a cactus on a red background",
    "a locomotive, cartoon style, on a white background",
    "3d teapot on a black background",
    "a flat drawing of a pineapple on a purple background",
    "a crab on a yellow background",
    "an umbrella, 3d style, on a light blue background",
    "a cartoon tiger on a green background",
    "a balloon on a blue background",
    "a trophy on a navy background, cartoon style",
    "a flat illustration of an owl on an orange background",
    "a strawberry, 3d, on a white background",
    "a bicycle on a pink background",
)
OTHERS = (
    "a portrait of a woman in the rain",
    "a kangaroo",
    "a wizard casting a spell",
    "two people dancing",
    "a beach at sunset",
    "a bowl of ramen",
    "a laptop on a desk",
    "a dragon breathing fire",
    "a wolf howling at the moon",
    "a city skyline at night",
    "a knight on a horse",
    "a submarine",
    "a cup of coffee",
    "a robot",
    "a birthday cake",
    "a skateboard",
    "a monkey",
    "a mountain lake",
    "an astronaut",
    "a piano",
    "a dolphin",
    "a bunch of flowers",
    "love",
    "a steam train crossing a bridge",
)
"""What the default model has no name for."""
VARIED = PROMPTS[2], PROMPTS[12], PROMPTS[18], PROMPTS[22]
"""What is drawn with several seeds, and with several guidance scales."""
SEEDS = range(6)
GUIDANCE = (1.0, 2.0, 3.0, 4.0, 6.0, 9.0)
STRIP_PROMPT, STRIP_SEED = "a red apple on a blue background", 1


def label(picture: Pixels, text: str, side: int) -> Image.Image:
    """``picture`` scaled to ``side`` with ``text`` below it."""
    font = ImageFont.load_default(13)
    tile = Image.new("RGB", (side + 8, side + 40), "white")
    tile.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (4, 4))
    draw = ImageDraw.Draw(tile)
    words, lines = text.split(), [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= side:
            lines[-1] = longer
        else:
            lines.append(word)
    draw.text((4, side + 6), "\n".join(lines[:2]), fill="black", font=font)
    return tile


def grid(tiles: list[Image.Image], columns: int) -> Image.Image:
    """``tiles`` of one size, row by row."""
    w, h = tiles[0].size
    sheet = Image.new("RGB", (columns * w, -(-len(tiles) // columns) * h), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * w, i // columns * h))
    return sheet


def once(engine: Engine, prompts: Sequence[str]) -> Image.Image:
    """Every prompt once."""
    return grid(
        [label(paint(engine, p, i), f"{p} (seed {i})", 192) for i, p in enumerate(prompts)], 6
    )


def seeds_sheet(engine: Engine) -> Image.Image:
    """A row of seeds for each of a few prompts."""
    tiles = [
        label(paint(engine, p, seed), f"seed {seed}: {p}", 192) for p in VARIED for seed in SEEDS
    ]
    return grid(tiles, len(SEEDS))


def guidance_sheet(engine: Engine) -> Image.Image:
    """A row of guidance scales for each of a few prompts, all with one seed."""
    tiles = []
    for prompt in VARIED:
        for scale in GUIDANCE:
            sampling = engine.model.config.sampling.changed({"guidance_scale": scale})
            picture = paint(engine, prompt, 0, sampling=sampling)
            tiles.append(label(picture, f"guidance {scale:g}: {prompt}", 192))
    return grid(tiles, len(GUIDANCE))


def strip(engine: Engine) -> Image.Image:
    """One picture after each of its scales."""
    sides = engine.model.config.patch_nums
    pictures = [paint(engine, STRIP_PROMPT, STRIP_SEED, scales=k) for k in range(1, len(sides) + 1)]
    return grid(
        [label(p, f"{s} x {s}", 116) for s, p in zip(sides, pictures, strict=True)], len(sides)
    )


SHEETS: dict[str, Callable[[Engine], Image.Image]] = {
    "contact-sheet": lambda engine: once(engine, PROMPTS),
    "other-words": lambda engine: once(engine, OTHERS),
    "coarse-to-fine": strip,
    "seeds": seeds_sheet,
    "guidance": guidance_sheet,
}


@command
def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description="Draw the README's and the model card's pictures.")
    parser.add_argument("--model", type=Path, default=Path("weights/star-mini"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument(
        "--only", choices=SHEETS, nargs="+", help="some of the sheets; all when absent"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    engine = Engine(load_model(arguments.model), slots=1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only or SHEETS:
        SHEETS[name](engine).save(arguments.out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
