"""What a model is trained on: composed scenes, or pictures of one's own with their captions.

    DATA/pictures/pictures.json   {"size": 512, "pictures": [{"source": "cats/tom.jpg", "captions": ["a cat"]}, ...]}
    DATA/pictures/00000000.png    RGB, size x size pixels; number 0 of that list

`training.prepare --folder` writes such a folder (:mod:`training.folder`); without one, the data are scenes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from training.captions import plain_caption
from training.scenes import PLAIN, SceneGenerator, Variety, render
from training.sprites import Pixels, Sprites

IMAGE_SIZE = 512
PICTURES, INDEX = "pictures", "pictures.json"

UNSEEN = 12
"""Pictures that a tokenizer is scored by."""

ENOUGH = 120
"""From so many pictures on, some of them are kept from the tokenizer's training to score it by."""


class Pictures(Protocol):
    """Pictures by number, each with captions; what a number means never changes."""

    @property
    def count(self) -> int | None:
        """Number of different pictures; None without an end."""

    def picture(self, index: int) -> Pixels:
        """Picture number ``index``, at least 0: uint8 (512, 512, 3)."""

    def captions(self, index: int, count: int) -> list[str]:
        """``count`` captions of picture number ``index``, the first of them the plainest where there is a choice."""

    def plain_caption(self, index: int) -> str:
        """What a user would most simply ask for to get picture number ``index``."""


class ScenePictures:
    """Composed scenes.

    Args:
        data: folder filled by `training.prepare`.
        seed: names the sequence.
        vocabulary: which things are drawn.
        variety: of the scenes.
        max_objects: in a scene.
    """

    count = None

    def __init__(
        self,
        data: Path,
        *,
        seed: int,
        vocabulary: str,
        variety: Variety = PLAIN,
        max_objects: int = 2,
    ) -> None:
        self._sprites = Sprites(data)
        self.scenes = SceneGenerator(
            data, seed=seed, vocabulary=vocabulary, max_objects=max_objects, variety=variety
        )

    def picture(self, index: int) -> Pixels:
        return render(self.scenes.scene(index), self._sprites, IMAGE_SIZE)

    def captions(self, index: int, count: int) -> list[str]:
        return self.scenes.captions(index, count)

    def plain_caption(self, index: int) -> str:
        return plain_caption(self.scenes.scene(index))


class FolderPictures:
    """Pictures of one's own. After the last number all come again, each time in another order.

    Args:
        data: folder filled by `training.prepare --folder`.
        seed: of the order.
        unseen: False for all pictures but those that are kept to score by, True for those alone, None for all.
    """

    def __init__(self, data: Path, *, seed: int = 0, unseen: bool | None = None) -> None:
        self._folder = data / PICTURES
        index = json.loads((self._folder / INDEX).read_text(encoding="utf-8"))
        self._captions: list[list[str]] = [entry["captions"] for entry in index["pictures"]]
        self._seed = seed
        total = len(self._captions)
        kept = range(0, total, total // UNSEEN)[:UNSEEN] if total >= ENOUGH else range(0)
        if unseen and not kept:  # too few: they are scored by some that they were trained on
            self._numbers = list(range(min(UNSEEN, total)))
        else:
            self._numbers = [n for n in range(total) if unseen is None or (n in kept) == unseen]

    @property
    def count(self) -> int:
        return len(self._numbers)

    def picture(self, index: int) -> Pixels:
        file = self._folder / f"{self._number(index):08d}.png"
        pixels: Pixels = np.array(Image.open(file).convert("RGB"))
        return pixels

    def captions(self, index: int, count: int) -> list[str]:
        given = self._captions[self._number(index)]
        return [given[i % len(given)] for i in range(count)]

    def plain_caption(self, index: int) -> str:
        return self.captions(index, 1)[0]

    def prompts(self, most: int) -> tuple[str, ...]:
        """Return the plain captions of the first pictures, each once, ``most`` at most."""
        captions = dict.fromkeys(self.plain_caption(i) for i in range(self.count))
        return tuple(captions)[:most]

    def _number(self, index: int) -> int:
        """Return the number of the picture whose turn it is."""
        turn, place = divmod(index, self.count)
        if turn == 0:
            return self._numbers[place]
        order = np.random.default_rng((self._seed, turn)).permutation(self.count)
        return self._numbers[int(order[place])]


def has_own_pictures(data: Path) -> bool:
    """True if ``data`` was filled by `training.prepare --folder`."""
    return (data / PICTURES / INDEX).is_file()


def open_pictures(
    data: Path, *, seed: int, vocabulary: str, variety: Variety = PLAIN, max_objects: int = 2
) -> Pictures:
    """Open what ``data`` holds; the arguments are those of :class:`ScenePictures`, and choose among scenes only.

    Raises:
        FileNotFoundError: the data has not been prepared.
    """
    if has_own_pictures(data):
        return FolderPictures(data, seed=seed)
    return ScenePictures(
        data, seed=seed, vocabulary=vocabulary, variety=variety, max_objects=max_objects
    )
