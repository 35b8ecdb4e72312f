"""Generating scenes from (seed, index) alone, and painting them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
from PIL import Image

from star_model.colours import COLOURS, RGB
from training.arrangement import arrange
from training.backdrops import BACKDROPS, paint_backdrop
from training.captions import caption_of, plain_caption
from training.concepts import (
    Concept,
    held_out_colours,
    held_out_keywords,
    held_out_styles,
    load_concepts,
)
from training.scene import Background, Scene
from training.sources import STYLES
from training.sprites import Pixels, Sprites

Split = Literal["train", "held_out"]

COLOUR_JITTER = (
    3  # largest deviation of a channel from the named colour, in scenes with other places
)

_OBJECT_WEIGHTS = {1: (1.0,), 2: (0.75, 0.25), 3: (0.7, 0.22, 0.08)}  # by max_objects


@dataclass(frozen=True)
class Variety:
    """Shares of the scenes, 0 to 1, that are not one or two drawings in their usual places on a plain colour.

    Attributes:
        elsewhere: drawings in other places and sizes, mirrored or not, on colours that are a little off.
        gradients: a gradient of two colours behind them.
        backdrops: a backdrop behind them.
    """

    elsewhere: float = 0.0
    gradients: float = 0.0
    backdrops: float = 0.0


PLAIN = Variety()
FOR_TOKENIZER = Variety(elsewhere=0.3, gradients=0.15, backdrops=0.15)
"""The image tokenizer has to encode uploads too."""
FOR_TRANSFORMER = Variety(backdrops=0.15)


class SceneGenerator:
    """An endless, addressable sequence of scenes.

    "train" holds no (concept, style) and no (concept, background colour) pair that is held out, and no
    caption with a held-out synonym. "held_out" is made of those pairs: each scene's first object is in one,
    either with its style or with its background, and captions are the plain ones.
    """

    def __init__(
        self,
        data: Path,
        *,
        seed: int,
        vocabulary: str = "starter",
        styles: Sequence[str] = STYLES,
        max_objects: int = 1,
        split: Split = "train",
        variety: Variety = PLAIN,
    ) -> None:
        """
        Args:
            data: folder filled by `training.prepare`.
            seed: names the sequence.
            vocabulary: a file of `training/vocabulary/`, or "full".
            styles: which of `STYLES` to use.
            max_objects: 1 to 3.
            split: "train" or "held_out".
            variety: what there is beside the usual scenes; held-out scenes are usual ones.

        Raises:
            FileNotFoundError: the data has not been prepared.
            ValueError: an argument is out of range, or the data lacks a concept or style.
        """
        _check_arguments(max_objects, styles)
        self.concepts = load_concepts(data, vocabulary)
        self.styles = tuple(styles)
        self.split: Split = split
        self._seed, self._max_objects, self._variety = seed, max_objects, variety
        self._held_styles = held_out_styles(self.concepts, STYLES)
        self._held_colours = held_out_colours(self.concepts, COLOURS)
        self._held_keywords = held_out_keywords(self.concepts)
        self._check_drawn(data)
        self._by_style = {
            style: [c for c in self.concepts if (c.label, style) not in self._held_styles]
            for style in self.styles
        }
        if not all(self._by_style.values()):
            raise ValueError(
                "so small a vocabulary leaves some style without any concept to train on"
            )
        self._style_tests, self._colour_tests = self._held_out_pairs()
        if split == "held_out" and not (self._style_tests or self._colour_tests):
            raise ValueError("no pair is held out of so small a vocabulary")

    def _held_out_pairs(self) -> tuple[list[tuple[Concept, str]], list[tuple[Concept, str]]]:
        """The held-out pairs of a concept with one of the styles in use, and with a background colour."""
        by_label = {concept.label: concept for concept in self.concepts}
        styles = [(by_label[c], s) for c, s in sorted(self._held_styles) if s in self.styles]
        return styles, [(by_label[c], colour) for c, colour in sorted(self._held_colours)]

    def _check_drawn(self, data: Path) -> None:
        sprites = Sprites(data)
        for style in self.styles:
            if style not in sprites.styles:
                raise ValueError(f"{data} holds no drawings in the style {style!r}")
            missing = {concept.label for concept in self.concepts} - set(sprites.labels(style))
            if missing:
                raise ValueError(
                    f"not drawn in {style}: {', '.join(sorted(missing))}: prepare it first"
                )

    def scene(self, index: int) -> Scene:
        """Scene number `index` (any integer): a pure function of the arguments, the seed and the index."""
        rng = Random(f"{self._seed}/{self.split}/{index}")
        concepts, style, colour = self._choose(rng)
        elsewhere = self.split == "train" and rng.random() < self._variety.elsewhere
        background = self._background(rng, concepts, colour, jitter=elsewhere)
        objects, arrangement = arrange(rng, concepts, style, elsewhere=elsewhere)
        scene = Scene(objects=objects, background=background, arrangement=arrangement, caption="")
        return replace(scene, caption=self._caption(scene, rng))

    def captions(self, index: int, count: int) -> list[str]:
        """``count`` captions of scene number ``index``, each in words of its own; its ``caption`` is the first."""
        scene = self.scene(index)
        more = (Random(f"{self._seed}/{self.split}/{index}/{turn}") for turn in range(1, count))
        return [scene.caption, *(self._caption(scene, rng) for rng in more)]

    def _caption(self, scene: Scene, rng: Random) -> str:
        if self.split == "held_out":
            return plain_caption(scene)
        return caption_of(scene, rng, avoid=self._held_keywords)

    def _choose(self, rng: Random) -> tuple[list[Concept], str, str | None]:
        """Concepts, their style, and the background colour if that is what a held-out scene is about."""
        weights = _OBJECT_WEIGHTS[self._max_objects]
        count = rng.choices(range(1, len(weights) + 1), weights)[0]
        colour: str | None = None
        if self.split == "held_out" and self._pick_style_test(rng):
            first, style = rng.choice(self._style_tests)
        elif self.split == "held_out":
            first, colour = rng.choice(self._colour_tests)
            allowed = [s for s in self.styles if (first.label, s) not in self._held_styles]
            style = rng.choice(allowed or self.styles)
        else:
            # Styles are drawn evenly, so a concept with a held-out style is slightly rarer, never a style.
            style = rng.choice(self.styles)
            first = rng.choice(self._by_style[style])
        concepts = [first]
        while len(concepts) < min(count, len(self._by_style[style])):
            other = rng.choice(self._by_style[style])
            if other.label not in {concept.label for concept in concepts}:
                concepts.append(other)
        return concepts, style, colour

    def _pick_style_test(self, rng: Random) -> bool:
        if self._style_tests and self._colour_tests:
            return rng.random() < 0.5
        return bool(self._style_tests)

    def _background(
        self, rng: Random, concepts: Sequence[Concept], fixed: str | None, *, jitter: bool
    ) -> Background:
        """A background that no object is held out of; with `fixed`, plain and of that colour."""
        kind = rng.random()
        if self.split == "train" and kind < self._variety.backdrops:
            return Background(kind="backdrop", colours=(rng.choice(list(BACKDROPS)),), rgb=())
        labels = [concept.label for concept in concepts]
        allowed = [
            c for c in COLOURS if not any((label, c) in self._held_colours for label in labels)
        ]
        gradient = fixed is None and rng.random() < self._variety.gradients
        names = tuple(rng.sample(allowed, 2)) if gradient else (fixed or rng.choice(allowed),)
        rgb = tuple(_jittered(rng, COLOURS[name]) if jitter else COLOURS[name] for name in names)
        return Background(kind="gradient" if gradient else "plain", colours=names, rgb=rgb)


def _check_arguments(max_objects: int, styles: Sequence[str]) -> None:
    """Raise ValueError for a number of objects or a style that scenes are not made of."""
    if max_objects not in _OBJECT_WEIGHTS:
        raise ValueError(f"max_objects must be 1, 2 or 3, not {max_objects}")
    if not styles or not set(styles) <= set(STYLES):
        raise ValueError(
            f"styles must be some of {', '.join(STYLES)}, not {', '.join(styles) or 'none'}"
        )


def _jittered(rng: Random, rgb: RGB) -> RGB:
    r, g, b = (min(255, max(0, c + rng.randint(-COLOUR_JITTER, COLOUR_JITTER))) for c in rgb)
    return r, g, b


def _paint_background(
    background: Background, size: int, window: tuple[int, int, int, int]
) -> Pixels:
    """uint8 (h, w, 3) of the window (x0, y0, w, h) of a canvas of `size` pixels."""
    x0, y0, width, height = window
    if background.kind == "backdrop":
        picture = paint_backdrop(background.colours[0], size)
        return picture[y0 : y0 + height, x0 : x0 + width].copy()
    top, bottom = (np.asarray(rgb, np.float64) for rgb in (background.rgb[0], background.rgb[-1]))
    t = (np.arange(y0, y0 + height) + 0.5)[:, None] / size  # (h, 1)
    rows = np.rint(top + (bottom - top) * t).astype(np.uint8)  # (h, 3)
    return np.repeat(rows[:, None], width, axis=1)


def _resized(drawing: Pixels, side: int, mirrored: bool) -> Pixels:
    """A premultiplied drawing at `side` x `side` pixels."""
    source = np.ascontiguousarray(drawing[:, ::-1] if mirrored else drawing)
    height, width, _ = source.shape
    # Pillow's "RGBa" is premultiplied RGBA: resampling needs no division and no hidden colour bleeds in.
    image = Image.frombuffer("RGBa", (width, height), source, "raw", "RGBa", 0, 1)
    how = Image.Resampling.BILINEAR if side <= width else Image.Resampling.BICUBIC
    return np.asarray(image.resize((side, side), how))


def render(
    scene: Scene, sprites: Sprites, size: int = 512, crop: tuple[int, int, int, int] | None = None
) -> Pixels:
    """Paint a scene on a canvas of `size` x `size` pixels.

    Args:
        scene: what to paint.
        sprites: the drawings.
        size: side of the canvas in pixels.
        crop: (x0, y0, width, height) in pixels of the canvas; only this window is painted, and it is equal to
            that slice of the whole.

    Returns:
        uint8 (size, size, 3), or (height, width, 3) with `crop`; RGB.

    Raises:
        KeyError: a drawing is missing.
        ValueError: the window is empty or not inside the canvas.
    """
    x0, y0, width, height = window = crop or (0, 0, size, size)
    if min(width, height) < 1 or min(x0, y0) < 0 or x0 + width > size or y0 + height > size:
        raise ValueError(f"the crop {window} is not a window of a canvas of {size} px")
    canvas = _paint_background(scene.background, size, window)
    for placed in scene.objects:
        side = max(1, round(placed.size * size))
        left, top = round(placed.x * size - side / 2) - x0, round(placed.y * size - side / 2) - y0
        xa, xb = max(left, 0), min(left + side, width)
        ya, yb = max(top, 0), min(top + side, height)
        if xa >= xb or ya >= yb:
            continue
        drawing = _resized(
            sprites.drawing(placed.concept.label, placed.style), side, placed.mirrored
        )
        part = drawing[ya - top : yb - top, xa - left : xb - left]
        below = canvas[ya:yb, xa:xb]
        # below * (255 - alpha) / 255, rounded, in 16-bit integers
        product = below * (255 - part[..., 3:]).astype(np.uint16) + 128
        shaded = (product + (product >> 8)) >> 8
        canvas[ya:yb, xa:xb] = np.minimum(
            shaded + part[..., :3], 255
        )  # bicubic may overshoot alpha
    return canvas
