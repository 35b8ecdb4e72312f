"""Paint what the playground opens on: ``python -m training.gallery --model weights/star-mini``.

The prompts are the model's own examples and things spread evenly over its vocabulary, in turn in each style and before
each background; picture *i* has seed *i*. None is picked by hand. Run it again whenever the weights change.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import torch
from PIL import Image

from star_model import Engine, load_model
from star_model.gallery import GALLERY, INDEX, digest_of_transformer
from star_model.model import StarModel
from star_model.vocabulary import Vocabulary, with_article
from training.machine import command
from training.painting import paint

COUNT, SIDE, QUALITY = 18, 256, 72


def prompts_of(model: StarModel, count: int) -> list[str]:
    """``count`` prompts that show what a model draws: its examples, then its vocabulary, if it has one."""
    prompts = list(dict.fromkeys(model.about.examples))[:count]
    if model.reader is not None and len(prompts) < count:
        known = model.reader.vocabulary
        drawn = {thing for prompt in prompts for thing in model.read_prompt(prompt).things}
        prompts += spread(known, count - len(prompts), drawn)
    return prompts


def spread(known: Vocabulary, count: int, drawn: set[str]) -> list[str]:
    """``count`` plain prompts for things that lie evenly in a vocabulary; those that are ``drawn`` are left out."""
    things = [thing for thing in known.names if thing not in drawn]
    step = max(1, len(things) // count)
    colours = [f"on {with_article(colour)} background" for colour in known.colours]
    places = [phrases[0] for phrases in known.backdrops.values()]
    behind = [
        phrase for pair in zip(cycle(colours), places, strict=False) for phrase in pair
    ] or colours
    styles, backgrounds = cycle(known.styles or [""]), cycle(behind or [""])
    return [
        ", ".join(filter(None, (thing, f"{style} style" if style else "", next(backgrounds))))
        for thing, style in zip(things[step // 2 :: step][:count], styles, strict=False)
    ]


def paint_gallery(directory: Path, prompts: Sequence[str], model: StarModel) -> Path:
    """Paint ``prompts`` and write the gallery of a model directory in place of an older one.

    Raises:
        ValueError: the directory has no SHA256SUMS, which tells later whether the weights are still the same.
    """
    digest = digest_of_transformer(directory)
    if digest is None:
        raise ValueError(f"{directory} has no SHA256SUMS; write it with star_model.save_model")
    folder = directory / GALLERY
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    engine = Engine(model, slots=1)
    pictures = []
    for seed, prompt in enumerate(prompts, start=1):
        file = f"{seed:02}-{'-'.join(re.findall(r'[a-z0-9]+', prompt.lower())[:6])}.webp"
        (folder / file).write_bytes(shrunk(Image.fromarray(paint(engine, prompt, seed))))
        pictures.append({"prompt": prompt, "seed": seed, "file": file})
        print(f"{file}: {(folder / file).stat().st_size} bytes", flush=True)
    text = json.dumps({"transformer": digest, "pictures": pictures}, indent=1, ensure_ascii=False)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")
    return folder


def shrunk(picture: Image.Image) -> bytes:
    """A small WebP file of a picture."""
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=QUALITY, method=6)
    return file.getvalue()


@command
def main() -> None:
    """Parse the command line and paint."""
    parser = argparse.ArgumentParser(description="Paint what the playground opens on.")
    parser.add_argument("--model", type=Path, default=Path("weights/star-mini"))
    parser.add_argument("--count", type=int, default=COUNT, choices=range(1, 49), metavar="1..48")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = load_model(arguments.model)
    paint_gallery(arguments.model, prompts_of(model, arguments.count), model)


if __name__ == "__main__":
    main()
