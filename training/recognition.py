"""Which drawing does a picture show? Segmentation against a smooth background, and the nearest reference drawing.

The pictures that are judged are drawings on plain or graded backgrounds, so no learnt classifier is needed: the object
is what differs from the background, and it is compared pixel by pixel with every drawing there is, composed onto the
same background. What this can and cannot tell is measured with real renderings (the ceiling) and with shuffled captions
(the floor) by ``training.evaluate``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.sprites import Pixels, Sprites

Window = tuple[float, float, float, float]
"""x0, y0, x1, y1 in fractions of the canvas."""

CANVAS = 128
"""Side at which a picture is segmented."""

PATCH = 24
"""Side at which an object, cut out by its bounding box, is compared."""

REFERENCE_SIDE = 64
"""Side at which the drawings are kept."""
_BORDER = 5  # columns at each side that are taken for background, of CANVAS
_CONTRAST = 0.1  # least difference from the background, of any channel in [0, 1]
_COVER = 0.02  # least share of a row or column that an object covers
_ASPECT_WEIGHT = (
    0.05  # of the squared log ratio of aspects, against the mean squared difference of colours
)


@dataclass(frozen=True)
class Region:
    """An object, cut out.

    Attributes:
        pixels: (3, PATCH, PATCH) in [0, 1], the bounding box stretched to a square.
        aspect: log of width over height of the bounding box.
        centre: (x, y) of the bounding box, as fractions of the canvas.
        size: the longer side of the bounding box, as a fraction of the canvas.
    """

    pixels: Tensor
    aspect: float
    centre: tuple[float, float]
    size: float


@dataclass(frozen=True)
class Match:
    """The reference drawing that a region looks most like."""

    label: str
    style: str
    distance: float


def to_canvas(picture: Pixels) -> Tensor:
    """A picture (H, W, 3) of bytes as (3, CANVAS, CANVAS) in [0, 1]."""
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).unsqueeze(0).float() / 255
    return F.interpolate(image, (CANVAS, CANVAS), mode="area")[0]


def background_of(canvas: Tensor) -> Tensor:
    """The background (3, CANVAS, 1): a straight line through the colours of the left and right border, row by row."""
    border = torch.cat([canvas[:, :, :_BORDER], canvas[:, :, -_BORDER:]], dim=2)
    rows = border.median(dim=2).values  # (3, CANVAS)
    y = torch.linspace(-1, 1, CANVAS)
    middle = rows.median(dim=1, keepdim=True).values
    quarter = (
        CANVAS // 4
    )  # medians of the upper and the lower quarter make a slope that an object at the edge leaves alone
    slope = rows[:, -quarter:].median(dim=1).values - rows[:, :quarter].median(dim=1).values
    return (middle + slope.unsqueeze(1) * y / 1.5).unsqueeze(2)


def bounding_boxes(masks: Tensor) -> Tensor:
    """Boxes (N, 4) as x0, y0, x1, y1 in fractions of the canvas; all of it where a mask (N, H, W) is empty."""
    smooth = (F.avg_pool2d(masks.float().unsqueeze(1), 3, 1, 1) > 0.5).float()[:, 0]
    boxes = []
    for axis in (1, 2):  # columns covered, then rows
        covered = smooth.mean(dim=axis) > _COVER  # (N, side)
        side = covered.shape[1]
        first = covered.float().argmax(dim=1)
        last = side - covered.flip(1).float().argmax(dim=1)
        nothing = ~covered.any(dim=1)
        boxes.append((first.masked_fill(nothing, 0) / side, last.masked_fill(nothing, side) / side))
    (x0, x1), (y0, y1) = boxes
    return torch.stack([x0, y0, x1, y1], dim=1)


def cut_out(images: Tensor, boxes: Tensor) -> Tensor:
    """The boxes (N, 4) of images (N, C, H, W), each stretched to (C, PATCH, PATCH)."""
    at = (torch.arange(PATCH) + 0.5) / PATCH
    x = boxes[:, 0:1] + (boxes[:, 2:3] - boxes[:, 0:1]) * at  # (N, PATCH)
    y = boxes[:, 1:2] + (boxes[:, 3:4] - boxes[:, 1:2]) * at
    grid = torch.stack(
        [x[:, None, :].expand(-1, PATCH, -1), y[:, :, None].expand(-1, -1, PATCH)], dim=3
    )
    return F.grid_sample(
        images, grid * 2 - 1, mode="bilinear", padding_mode="border", align_corners=False
    )


def find_object(canvas: Tensor, background: Tensor, window: Window | None = None) -> Region:
    """What differs from the background, within ``window``."""
    mask = ((canvas - background).abs() > _CONTRAST).any(dim=0)
    if window is not None:
        x0, y0, x1, y1 = (round(edge * CANVAS) for edge in window)
        inside = torch.zeros_like(mask)
        inside[y0:y1, x0:x1] = True
        mask = mask & inside
    box = bounding_boxes(mask.unsqueeze(0))
    x0, y0, x1, y1 = box[0].tolist()
    width, height = x1 - x0, y1 - y0
    smooth = F.avg_pool2d(canvas, 3, 1, 1, count_include_pad=False)
    return Region(
        pixels=cut_out(smooth.unsqueeze(0), box)[0],
        aspect=float(np.log(width / height)),
        centre=((x0 + x1) / 2, (y0 + y1) / 2),
        size=max(width, height),
    )


class References:
    """All drawings of a data folder, to be compared with.

    Args:
        sprites: the drawings.
    """

    def __init__(self, sprites: Sprites) -> None:
        self.names = [(label, style) for style in sprites.styles for label in sprites.labels(style)]
        drawings = []
        for label, style in self.names:
            drawing = (
                torch.from_numpy(np.array(sprites.drawing(label, style)))
                .permute(2, 0, 1)
                .unsqueeze(0)
            )
            drawings.append(
                F.interpolate(drawing.float() / 255, (REFERENCE_SIDE, REFERENCE_SIDE), mode="area")
            )
        self._drawings = torch.cat(drawings)  # (N, 4, 64, 64), premultiplied

    def nearest(self, region: Region, background: Tensor) -> Match:
        """The drawing that ``region`` looks most like on a background colour (3,), mirrored or not."""
        colour, alpha = self._drawings[:, :3], self._drawings[:, 3:]
        ground = background.view(1, 3, 1, 1)
        composed = colour + (1 - alpha) * ground
        boxes = bounding_boxes(((composed - ground).abs() > _CONTRAST).any(dim=1))
        patches = cut_out(composed, boxes)  # (N, 3, PATCH, PATCH)
        aspects = ((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])).log()
        shape = _ASPECT_WEIGHT * (aspects - region.aspect) ** 2
        distances = [
            (patches - pixels).square().mean(dim=(1, 2, 3)) + shape
            for pixels in (region.pixels, region.pixels.flip(-1))
        ]
        distance, index = torch.minimum(*distances).min(dim=0)
        label, style = self.names[int(index)]
        return Match(label, style, float(distance))

    def nearest_before(self, ground: Tensor, pixels: Tensor) -> Match:
        """The drawing that ``pixels`` look most like, composed onto ``ground``; (3, 64, 64) in [0, 1] both.

        The drawing fills the square: no object has to be cut out of a background that is not smooth.
        """
        composed = self._drawings[:, :3] + (1 - self._drawings[:, 3:]) * ground
        distance, index = (composed - pixels).square().mean(dim=(1, 2, 3)).min(dim=0)
        label, style = self.names[int(index)]
        return Match(label, style, float(distance))
