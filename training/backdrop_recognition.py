"""Which backdrop does a picture have, and which drawing stands before it?

The drawing of a scene with a backdrop is a square of 12 cells in the middle, so the two cells around it are backdrop
alone. They are compared with all backdrops; the middle is compared with every drawing composed onto the nearest one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.backdrops import BACKDROPS, paint_backdrop
from training.recognition import REFERENCE_SIDE, Match, References
from training.scene import GRID
from training.sprites import Pixels

_MARGIN = 2  # cells around the drawing
_SIDE = (
    REFERENCE_SIDE * GRID // (GRID - 2 * _MARGIN)
)  # of the picture, when the drawing is as large as a reference


def _shrunk(picture: Pixels) -> Tensor:
    """A picture (H, W, 3) of bytes as (3, _SIDE, _SIDE) in [0, 1]."""
    image = torch.tensor(picture).permute(2, 0, 1).unsqueeze(0).float() / 255
    return F.interpolate(image, (_SIDE, _SIDE), mode="area")[0]


def _middle(image: Tensor) -> Tensor:
    """Where the drawing stands (3, REFERENCE_SIDE, REFERENCE_SIDE)."""
    edge = (_SIDE - REFERENCE_SIDE) // 2
    return image[:, edge : edge + REFERENCE_SIDE, edge : edge + REFERENCE_SIDE]


class BackdropJudge:
    """Compares pictures with backdrops and drawings.

    Args:
        references: all drawings.
    """

    def __init__(self, references: References) -> None:
        self._references = references
        self._backdrops = {name: _shrunk(paint_backdrop(name, 512)) for name in BACKDROPS}

    def recognize(self, picture: Pixels) -> tuple[str, Match]:
        """The name of the nearest backdrop of a picture (512, 512, 3), and the nearest drawing before it."""
        image = _shrunk(picture)
        outside = torch.ones(_SIDE, _SIDE, dtype=torch.bool)
        _middle(outside.unsqueeze(0)).fill_(False)
        name = min(
            self._backdrops,
            key=lambda n: float((self._backdrops[n] - image)[:, outside].square().mean()),
        )
        return name, self._references.nearest_before(_middle(self._backdrops[name]), _middle(image))
