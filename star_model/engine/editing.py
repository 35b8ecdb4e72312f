"""In-painting, out-painting and variations: sequences that keep a part of an image's own tokens.

An edit is an ordinary sequence of the engine. At every scale, tokens whose whole cell lies outside the mask are
the image's own, those of its encoding; all others are sampled. After every scale the latent is put together:
outside the mask it is the image's own at that scale, inside it is what the tokens, kept and sampled, add up to.
Without that, a sampled coarse token would shift what lies outside its part of the mask, and the kept finer ones,
which are residuals of the image's own coarse ones, could not make up for it. So the sampled tokens always see the
true surroundings, and nothing bleeds out of the mask.

A mask that is small beside the image is painted in a window around it, at full resolution: a model that was
trained on whole pictures puts a whole thing in the middle of what it paints, not a part of one in a corner.

The published recipe (VAR, section 4.4, and its code) has neither: it keeps tokens by majority and the 1x1 token
always, and adds them up as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from star_model.model import StarModel
from star_model.scales import ScaleSchedule

FEATHER = 1 / 32
"""Width of the seam, as a fraction of the window's side."""
CONTEXT = 1.5
"""Side of the window around a mask, relative to the mask's."""
SMALLEST_WINDOW = 1 / 4
"""Side of the smallest window, relative to the image's: less is a few pixels, in which there is nothing to see."""


@dataclass(frozen=True)
class Window:
    """A square part of an image, in pixels."""

    top: int
    left: int
    side: int

    def crop(self, image: Tensor) -> Tensor:
        """The part of ``image`` (H, W, ...), not copied."""
        return image[self.top : self.top + self.side, self.left : self.left + self.side]


@dataclass(frozen=True, eq=False)
class Edit:
    """What a sequence keeps of an image; made by :func:`make_edit`, and shared by all seeds of a request.

    Args:
        window: the part of the image that is painted, at the model's size.
        tokens: the window's own token map (p * p,) of each scale.
        vectors: those tokens' codebook vectors (p * p, z).
        kept: which of them the sequence keeps, booleans (p * p,).
        latents: the window's own latent (z, P, P) after each scale.
        painted: where the latent is the sequence's and not the image's, booleans (P, P).
        image: uint8 (H, W, 3).
        opacity: how much of what is painted shows at each pixel of the image, 0 to 1, (H, W, 1).
    """

    window: Window
    tokens: list[Tensor]
    vectors: list[Tensor]
    kept: list[Tensor]
    latents: list[Tensor]
    painted: Tensor
    image: Tensor
    opacity: Tensor

    def keep(self, drawn: Tensor, vectors: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """The token map (p * p,) of ``scale`` and its vectors (p * p, z): the image's where they are kept, else what
        was ``drawn``."""
        kept = self.kept[scale]
        return (
            torch.where(kept, self.tokens[scale], drawn),
            torch.where(kept.unsqueeze(1), self.vectors[scale], vectors),
        )

    def keep_latent(self, f_hat: Tensor, scale: int) -> Tensor:
        """The latent (z, P, P) after ``scale``: ``f_hat`` where it is painted, else the image's own."""
        return torch.where(self.painted, f_hat, self.latents[scale])

    def composite(self, painted: Tensor) -> Tensor:
        """Lay what was ``painted``, uint8 (H, W, 3), over its window of the image; uint8 (H, W, 3).

        Outside the mask, the result is the image exactly.
        """
        result = self.image.clone()
        part, opacity = self.window.crop(result), self.window.crop(self.opacity)
        fitted = resize(painted, (self.window.side, self.window.side))
        part.copy_(torch.lerp(part.float(), fitted.float(), opacity).round_())
        return result


@torch.inference_mode()
def make_edit(
    model: StarModel,
    image: Tensor,
    mask: Tensor | None = None,
    *,
    keep_scales: int = 1,
    erase: bool = True,
    focus: bool = True,
    feather: bool = True,
) -> Edit:
    """Encode ``image``, and decide what of it is kept.

    Args:
        model: whose tokenizer encodes.
        image: uint8 (H, W, 3), of the model's size.
        mask: what is to be painted, booleans (H, W), True inside. None is everything: a variation.
        keep_scales: the first scales, from 0 to all, are the image's inside the mask too. The first is a single
            token, the tone of the whole: keeping it makes a filling fit in. More keep the layout and let the details
            be painted anew.
        erase: forget what is inside the mask and put its surroundings' colours there, so that nothing of it has
            an influence. Without it, what is kept inside (see ``keep_scales``) is of the image as it is.
        focus: paint a window around the mask, and not the whole image, if the mask is small. The prompt is then
            about the window.
        feather: fade from the image to what is painted over a few pixels inside the mask, rather than at once.

    Returns:
        What :meth:`star_model.engine.engine.Engine.prepare` takes. An empty mask gives the image back; one that
        covers everything leaves nothing to keep once it is erased, and gives an ordinary generation.

    Raises:
        ValueError: when image or mask have another size or type, or ``keep_scales`` is out of range.
    """
    schedule, side = model.config.schedule, model.config.image_size
    if image.shape != (side, side, 3) or image.dtype != torch.uint8:
        raise ValueError(
            f"image must be uint8 of shape ({side}, {side}, 3), got {image.dtype} of {tuple(image.shape)}"
        )
    if mask is not None and (mask.shape != (side, side) or mask.dtype != torch.bool):
        raise ValueError(
            f"mask must be bool of shape ({side}, {side}), got {mask.dtype} of {tuple(mask.shape)}"
        )
    if not 0 <= keep_scales <= len(schedule):
        raise ValueError(f"keep_scales must be 0 to {len(schedule)}, got {keep_scales}")

    image = image.to(model.device)
    inside = torch.ones(side, side, dtype=torch.bool) if mask is None else mask
    inside = inside.to(model.device)
    window = window_around(inside) if focus else Window(0, 0, side)
    seam = round(window.side * FEATHER)
    if erase and mask is not None:
        if inside.all():
            keep_scales = 0
        else:
            image = fill_from_rim(image, inside, seam)
    pixels = resize(window.crop(image), (side, side)).permute(2, 0, 1).float() / 127.5 - 1
    tokens = model.vqvae.encode(pixels.unsqueeze(0))
    # Nearest neighbours: the window is never larger than the image, so nothing of the mask is lost.
    enlarged = F.interpolate(window.crop(inside)[None, None].float(), size=(side, side))[0, 0] > 0
    return Edit(
        window=window,
        tokens=[t[0] for t in tokens],
        vectors=[model.vqvae.quantizer.codebook(t[0]) for t in tokens],
        kept=kept_tokens(enlarged, schedule, keep_scales),
        latents=[f_hat[0] for f_hat in model.vqvae.quantizer.f_hats(tokens)],
        painted=touched_cells(enlarged, schedule.last_side),
        image=image,
        opacity=opacity(inside, seam if feather else 0),
    )


def window_around(mask: Tensor) -> Window:
    """The square part of an image to paint for ``mask`` (H, W): around it, with some context, within the image."""
    size = len(mask)
    if not mask.any():
        return Window(0, 0, size)
    spans = []
    for axis in (1, 0):  # rows with any of it, then columns
        touched = mask.any(axis).nonzero()
        spans.append((int(touched[0]), int(touched[-1]) + 1))
    wanted = round(CONTEXT * max(end - start for start, end in spans))
    side = min(max(wanted, round(SMALLEST_WINDOW * size)), size)
    top, left = (min(max((start + end - side) // 2, 0), size - side) for start, end in spans)
    return Window(top, left, side)


def touched_cells(mask: Tensor, side: int) -> Tensor:
    """Which cells of a ``side`` x ``side`` grid over ``mask`` (H, W) have any of it in them: booleans (side, side)."""
    return F.adaptive_max_pool2d(mask[None, None].float(), side)[0, 0] > 0


def kept_tokens(mask: Tensor, schedule: ScaleSchedule, keep_scales: int = 0) -> list[Tensor]:
    """Which tokens an edit keeps: for each scale, booleans (p * p,).

    A token of the first ``keep_scales`` scales is kept anyway, one of the others if its whole cell lies outside
    ``mask`` (H, W).
    """
    return [
        ~touched_cells(mask, side).flatten() | (scale < keep_scales)
        for scale, side in enumerate(schedule.patch_nums)
    ]


def opacity(mask: Tensor, width: int) -> Tensor:
    """How much of what is painted shows: (H, W, 1), 0 outside ``mask`` (H, W), and 1 from ``width`` pixels inside on.

    The border of the image is no seam: nothing fades there.
    """
    outside = (~mask)[None, None].float()
    depth = mask.float()
    for _ in range(width):
        outside = F.max_pool2d(outside, 3, stride=1, padding=1)
        depth += 1 - outside[0, 0]
    return (depth / (width + 1)).unsqueeze(-1)


def fill_from_rim(image: Tensor, mask: Tensor, width: int) -> Tensor:
    """Replace what is inside ``mask`` (H, W) by smooth colours of its rim; uint8 (H, W, 3) both ways.

    Push and pull: average the ``width`` pixels around the mask into ever smaller images, and fill every image from
    the next smaller. What lies further away has no say, so that an object amid the kept part does not tint the
    rest.
    """
    near = F.max_pool2d(mask[None, None].float(), 2 * width + 1, stride=1, padding=width) > 0
    rim = (near & ~mask).float()
    filled = _push_pull(image.permute(2, 0, 1)[None].float() * rim, rim)[0].permute(1, 2, 0)
    return torch.where(mask.unsqueeze(-1), filled.round_().to(torch.uint8), image)


def _push_pull(image: Tensor, known: Tensor) -> Tensor:
    """``image`` (1, 3, h, w), zero where ``known`` (1, 1, h, w) is, without the zeros."""
    if known.all() or min(known.shape[-2:]) == 1:
        return image
    weight = F.avg_pool2d(known, 2, ceil_mode=True)
    mean = F.avg_pool2d(image, 2, ceil_mode=True) / weight.clamp(min=1e-6)
    smaller = _push_pull(mean, (weight > 0).float())
    behind = F.interpolate(smaller, size=image.shape[-2:], mode="bilinear")
    return torch.where(known > 0, image, behind)


def place_on_canvas(
    image: Tensor, box: tuple[float, float, float, float], side: int
) -> tuple[Tensor, Tensor]:
    """Put an image on a larger canvas, for out-painting.

    Args:
        image: uint8 (h, w, 3), of any size.
        box: left, top, right and bottom edge of where it goes, as fractions of the canvas; it is stretched to fit.
        side: of the canvas, in pixels.

    Returns:
        The canvas, uint8 (side, side, 3), and the mask (side, side) of what is left to paint.

    Raises:
        ValueError: when the box reaches beyond the canvas, or is less than a pixel wide or high.
    """
    left, top, right, bottom = (round(edge * side) for edge in box)
    if not (0 <= left < right <= side and 0 <= top < bottom <= side):
        raise ValueError(
            f"box must be left, top, right, bottom with 0 <= left < right <= 1 and so on, got {box}"
        )
    canvas = torch.zeros(side, side, 3, dtype=torch.uint8, device=image.device)
    canvas[top:bottom, left:right] = resize(image, (bottom - top, right - left))
    mask = torch.ones(side, side, dtype=torch.bool, device=image.device)
    mask[top:bottom, left:right] = False
    return canvas, mask


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """``image`` uint8 (h, w, 3) at another height and width; itself if it has them."""
    if image.shape[:2] == size:
        return image
    pixels = image.permute(2, 0, 1)[None].float()
    fitted = F.interpolate(pixels, size=size, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    return fitted.round_().clamp_(0, 255).to(torch.uint8)
