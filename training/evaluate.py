"""Score a model: ``python -m training.evaluate --model weights/star-mini``.

Pictures are painted from captions whose scenes are known, and compared with all reference drawings
(``recognition.py``):

- object: the nearest of all drawings, in any style, is one of the concept that the caption names.
- style: that drawing is in the style that the caption names.
- colour: the background's nearest named colour, or nearest backdrop, is the one that the caption names.
- known: that drawing is of something in the vocabulary, right or not: a mixture is like anything.
- arrangement: of two objects, the one named first is found in the left (upper) half and the other in the other half.

Captions come in five splits: ``plain`` (canonical captions of pairs that training may show), ``pairs`` (a concept in a
style or on a colour that training never shows it with), ``keywords`` (a name that no training caption uses), ``two``
(two objects) and ``backdrops`` ("a fox, flat style, on a beach"). Three more rows say what the metric itself can tell:
``shuffled`` (pictures of ``plain`` scored against each other's captions: the floor), ``rendered`` (the real scenes: the
ceiling), ``tokenized`` (the real scenes through the tokenizer: the ceiling for any transformer on it).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from statistics import mean
from typing import Literal

import numpy as np
import torch

from star_model import Engine, Sampling, StarModel, load_model
from star_model.engine.editing import Edit
from star_model.networks.precision import DTYPES
from training.backdrop_recognition import BackdropJudge
from training.captions import plain_caption
from training.concepts import held_out_keywords, load_concepts
from training.contact_sheet import grid, label
from training.machine import command
from training.painting import paint
from training.recognition import References, Window, background_of, find_object, to_canvas
from training.scene import Arrangement, Scene, nearest_colour
from training.scenes import PLAIN, SceneGenerator, Variety, render
from training.sprites import Pixels, Sprites
from training.train_tokenizer import to_tensor

SIZE = 512
SETTINGS = tuple(Sampling.model_fields)
"""Of sampling; flags of the command."""
HALVES: dict[Arrangement | None, tuple[Window | None, ...]] = {
    "left of": ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)),
    "above": ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)),
}
"""Windows (x0, y0, x1, y1) of the first and the second of two objects."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Shares in [0, 1] of the pictures of a split that are right.

    Attributes:
        object: every object is found where it should be (for two, this is the arrangement).
        style: the style, of the first object.
        colour: the background's colour, or the backdrop.
        known: the nearest of all drawings is one of the vocabulary, be it the right one.
        pictures: how many there are.
    """

    object: float
    style: float
    colour: float
    known: float
    pictures: int


class Judge:
    """Compares pictures with what they should show.

    Args:
        sprites: the drawings to tell apart.
        vocabulary: the labels of those that the model may know.
    """

    def __init__(self, sprites: Sprites, vocabulary: Iterable[str]) -> None:
        self._references = References(sprites)
        self._backdrops = BackdropJudge(self._references)
        self._vocabulary = frozenset(vocabulary)

    def score(self, pictures: Sequence[Pixels], scenes: Sequence[Scene]) -> Score:
        """Score pictures (512, 512, 3), one for each scene."""
        verdicts = [
            self._verdict(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)
        ]
        objects, styles, colours, known = (mean(column) for column in zip(*verdicts, strict=True))
        return Score(objects, styles, colours, known, len(verdicts))

    def _verdict(self, picture: Pixels, scene: Scene) -> tuple[bool, bool, bool, bool]:
        if scene.background.kind == "backdrop":
            name, match = self._backdrops.recognize(picture)
            return (
                match.label == scene.objects[0].concept.label,
                match.style == scene.style,
                name == scene.background.colours[0],
                match.label in self._vocabulary,
            )
        canvas = to_canvas(picture)
        background = background_of(canvas)
        colour = background.mean(dim=(1, 2))
        windows = HALVES.get(scene.arrangement, (None,))
        matches = [
            self._references.nearest(find_object(canvas, background, w), colour) for w in windows
        ]
        found = [
            match.label == o.concept.label for match, o in zip(matches, scene.objects, strict=True)
        ]
        right_colour = nearest_colour((colour * 255).tolist()) == scene.background.colours[0]
        known = all(match.label in self._vocabulary for match in matches)
        return all(found), matches[0].style == scene.style, right_colour, known


@dataclasses.dataclass(frozen=True)
class Split:
    """Scenes and the captions they are painted from."""

    scenes: list[Scene]
    captions: list[str]

    @classmethod
    def said_plainly(cls, scenes: list[Scene]) -> Split:
        """``scenes`` with their plain captions."""
        return cls(scenes, [plain_caption(scene) for scene in scenes])


def make_splits(data: Path, *, vocabulary: str, pictures: int, seed: int) -> dict[str, Split]:
    """The splits named at the top, ``pictures`` scenes each; the same for a seed.

    Args:
        data: what training.prepare wrote.
        vocabulary: which concepts are asked for.
        pictures: scenes of each split.
        seed: of the scenes.
    """

    def scenes(
        keep: Callable[[Scene], bool],
        *,
        split: Literal["train", "held_out"] = "train",
        objects: int = 1,
        variety: Variety = PLAIN,
    ) -> list[Scene]:
        generator = SceneGenerator(
            data,
            seed=seed,
            vocabulary=vocabulary,
            max_objects=objects,
            split=split,
            variety=variety,
        )
        return list(islice(filter(keep, map(generator.scene, count())), pictures))

    def everything(_: Scene) -> bool:
        return True

    words = held_out_keywords(SceneGenerator(data, seed=seed, vocabulary=vocabulary).concepts)
    named = scenes(lambda scene: scene.objects[0].concept.label in words)
    other_names = [plain_caption(s, name=words[s.objects[0].concept.label]) for s in named]
    return {
        "plain": Split.said_plainly(scenes(everything)),
        "pairs": Split.said_plainly(scenes(everything, split="held_out")),
        "keywords": Split(named, other_names),
        "two": Split.said_plainly(scenes(lambda scene: len(scene.objects) == 2, objects=2)),
        "backdrops": Split.said_plainly(scenes(everything, variety=Variety(backdrops=1.0))),
    }


class Painter:
    """Paints captions as the server would, and counts the time."""

    def __init__(self, model: StarModel, sampling: Mapping[str, float | None]) -> None:
        self.model, self.engine = model, Engine(model, slots=1)
        self.sampling = model.config.sampling.changed(sampling)
        self.seconds: list[float] = []

    def paint(self, caption: str, seed: int, edit: Edit | None = None) -> Pixels:
        """One picture (512, 512, 3), of nothing or of what ``edit`` keeps."""
        started = time.perf_counter()
        picture = paint(self.engine, caption, seed, sampling=self.sampling, edit=edit)
        self.seconds.append(time.perf_counter() - started)
        return picture


@torch.inference_mode()
def through_tokenizer(model: StarModel, picture: Pixels) -> Pixels:
    """A picture, encoded to tokens and decoded again."""
    tokens = model.vqvae.encode(to_tensor(picture).unsqueeze(0).to(model.device))
    decoded = model.vqvae.decode_tokens(tokens)[0]
    result: Pixels = ((decoded + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    return result


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of bytes."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


ALL_CONCEPTS = 849
"""That ``training.prepare`` draws without ``--vocabulary``, and that the figures of the model card are for."""


def warn_of_few(concepts: int) -> None:
    """Say on stderr that figures are not comparable, if drawings of less than all concepts are told apart."""
    if concepts < ALL_CONCEPTS:
        print(
            f"--data has drawings of {concepts} things, and published figures are for {ALL_CONCEPTS}: fewer to tell "
            "apart give higher figures. `python -m training.prepare --out DIR` without --vocabulary makes all.",
            file=sys.stderr,
        )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Score a model on captions whose pictures are known."
    )
    parser.add_argument("--model", type=Path, default=Path("weights/star-mini"))
    parser.add_argument(
        "--data", type=Path, default=Path("runs/data"), help="what training.prepare wrote"
    )
    parser.add_argument("--vocabulary", default="full", help="which concepts are asked for")
    parser.add_argument("--pictures", type=int, default=300, help="of each split")
    parser.add_argument(
        "--as-written",
        action="store_true",
        help="give the model the captions as they are, whatever it knows",
    )
    parser.add_argument(
        "--seed", type=int, default=1_000_000, help="of the scenes; training uses small ones"
    )
    for name in SETTINGS:
        flag, kind = f"--{name.replace('_', '-')}", type(getattr(Sampling(), name))
        parser.add_argument(flag, type=kind, help="in place of the model's default")
    parser.add_argument("--sheets", type=Path, help="a folder for one contact sheet of each split")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", *DTYPES), help="of the transformer's weights"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch choose")
    return parser.parse_args()


@command
def main() -> None:
    """Paint, score, print a table and one JSON line."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    given = {name: getattr(arguments, name) for name in SETTINGS}
    model = load_model(arguments.model, device=arguments.device, dtype=arguments.dtype)
    sprites = Sprites(arguments.data)
    if arguments.as_written:
        model = dataclasses.replace(model, reader=None)
    painter = Painter(model, given)
    warn_of_few(len(sprites.labels(sprites.styles[0])))
    judge = Judge(sprites, (c.label for c in load_concepts(arguments.data, arguments.vocabulary)))
    splits = make_splits(
        arguments.data,
        vocabulary=arguments.vocabulary,
        pictures=arguments.pictures,
        seed=arguments.seed,
    )

    scores = {}
    for name, split in splits.items():
        pictures = [
            painter.paint(caption, arguments.seed + i) for i, caption in enumerate(split.captions)
        ]
        scores[name] = judge.score(pictures, split.scenes)
        print(f"{name:>10}  {scores[name]}", flush=True)
        if name == "plain":
            shuffled = [*split.scenes[1:], split.scenes[0]]
            scores["shuffled"] = judge.score(pictures, shuffled)
        if arguments.sheets:
            arguments.sheets.mkdir(parents=True, exist_ok=True)
            tiles = [label(p, c, 128) for p, c in zip(pictures[:48], split.captions, strict=False)]
            grid(tiles, 8).save(arguments.sheets / f"{name}.png", optimize=True)
    real = [render(scene, sprites, SIZE) for scene in splits["plain"].scenes]
    decoded = [through_tokenizer(model, picture) for picture in real]
    scores["rendered"] = judge.score(real, splits["plain"].scenes)
    scores["tokenized"] = judge.score(decoded, splits["plain"].scenes)

    figures = {
        "tokenizer_psnr_db": round(mean(psnr(a, b) for a, b in zip(real, decoded, strict=True)), 2),
        "seconds_per_image": round(float(np.median(painter.seconds)), 3),
        "dtype": model.dtype_name,
        "references": len(sprites.labels(sprites.styles[0])) * len(sprites.styles),
        **painter.sampling.model_dump(),
    }
    report(scores, figures)


def report(scores: Mapping[str, Score], figures: Mapping[str, float | str]) -> None:
    """Print the scores of each split as a table, the other figures as a list, and everything as one JSON line."""
    print(f"\n{'split':>10}  {'object':>7}  {'style':>7}  {'colour':>7}  {'known':>7}  pictures")
    for name, s in scores.items():
        shares = "  ".join(f"{x:7.1%}" for x in (s.object, s.style, s.colour, s.known))
        print(f"{name:>10}  {shares}  {s.pictures:8d}")
    print("\n" + "\n".join(f"{name}: {value}" for name, value in figures.items()))
    print(json.dumps({"scores": {k: dataclasses.asdict(s) for k, s in scores.items()}, **figures}))


if __name__ == "__main__":
    main()
