"""In-painting, out-painting and variations: sequences that keep some of an image's own tokens.

An edit is an ordinary sequence of the engine. At every scale, tokens whose whole cell lies outside the mask are taken
from the image's encoding; all others are sampled. After every scale the latent is composed: outside the mask it is the
image's own at that scale, inside it is the sum of the tokens, kept and sampled. Otherwise a sampled coarse token would
shift the area outside the mask that its cell covers, and the kept finer tokens, which are residuals of the image's own
coarse ones, could not correct that. So the sampled tokens always see the true surroundings, and nothing bleeds out of
the mask.

A mask that is small compared to the image is generated in a window around it, at full resolution: a model that was
trained on whole pictures puts a whole object in the middle of its image, not a part of one in a corner.

The published method (VAR, section 4.4, and its code) does neither: it keeps tokens by majority and the 1x1 token
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
"""Side of the smallest window, relative to the image's: a smaller one is too few pixels to recognise anything."""


@dataclass(frozen=True)
class Window:
    """A square part of an image, in pixels."""

    top: int
    left: int
    side: int

    def crop(self, image: Tensor) -> Tensor:
        """This part of ``image`` (H, W, ...), as a view."""
        return image[self.top : self.top + self.side, self.left : self.left + self.side]


@dataclass(frozen=True, eq=False)
class Edit:
    """An image to edit, encoded; made by :func:`make_edit`, and shared by all seeds of a request.

    Args:
        window: the part of the image that is generated, scaled to the model's size.
        tokens: for each scale, the window's own token map (p * p,).
        vectors: for each scale, those tokens' codebook vectors (p * p, z).
        kept: for each scale, which tokens the sequence keeps, booleans (p * p,).
        latents: the window's own latent (z, P, P) after each scale.
        painted: where the latent is the sequence's and not the image's, booleans (P, P).
        image: uint8 (H, W, 3).
        opacity: weight of the generated pixels over the image's, 0 to 1, (H, W, 1).
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
        """The token map (p * p,) of ``scale`` and its vectors (p * p, z): the image's own where they are kept, else
        ``drawn`` and ``vectors``."""
        kept = self.kept[scale]
        return (
            torch.where(kept, self.tokens[scale], drawn),
            torch.where(kept.unsqueeze(1), self.vectors[scale], vectors),
        )

    def keep_latent(self, f_hat: Tensor, scale: int) -> Tensor:
        """The latent (z, P, P) after ``scale``: ``f_hat`` where it is painted, else the image's own."""
        return torch.where(self.painted, f_hat, self.latents[scale])

    def composite(self, painted: Tensor) -> Tensor:
        """Blend the generated pixels, uint8 (H, W, 3), into their window of the image; uint8 (H, W, 3).

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
    """Encode ``image`` and choose the tokens to keep.

    Args:
        model: the model that will edit it; its tokenizer encodes.
        image: uint8 (H, W, 3), of the model's size.
        mask: the area to generate, booleans (H, W), True inside. None is everything: a variation.
        keep_scales: number of first scales, from 0 to all, that are the image's own inside the mask too. The first is a
            single token, the overall tone: keeping it makes the filling match. More keep the layout and only generate
            the details anew.
        erase: replace the content of the mask by its surroundings' colours first, so that it has no influence.
            Otherwise the tokens kept inside the mask (see ``keep_scales``) are those of the image as it is.
        focus: generate a window around the mask instead of the whole image, if the mask is small. The prompt then
            describes the window only.
        feather: fade from the image to the generated pixels over a few pixels inside the mask.

    Returns:
        The argument of :meth:`star_model.engine.engine.Engine.prepare`. An empty mask gives the image back; with
        ``erase``, a mask that covers everything leaves nothing to keep and gives an ordinary generation.

    Raises:
        ValueError: when image or mask has another size or type, or ``keep_scales`` is out of range.
    """
    _check_input(model, image, mask, keep_scales)
    side = model.config.image_size
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
    shows = opacity(inside, seam if feather else 0)
    return _encode(model, image, inside, window, keep_scales, shows)


def _encode(
    model: StarModel, image: Tensor, mask: Tensor, window: Window, keep_scales: int, shows: Tensor
) -> Edit:
    """Encode the ``window`` of ``image``; ``shows`` is the result's opacity."""
    schedule, side, quantizer = model.config.schedule, len(image), model.vqvae.quantizer
    pixels = resize(window.crop(image), (side, side)).permute(2, 0, 1).float() / 127.5 - 1
    tokens = model.vqvae.encode(pixels.unsqueeze(0))
    # Nearest neighbours: the window is never larger than the image, so no pixel of the mask is lost.
    enlarged = F.interpolate(window.crop(mask)[None, None].float(), size=(side, side))[0, 0] > 0
    return Edit(
        window=window,
        tokens=[t[0] for t in tokens],
        vectors=[quantizer.codebook(t[0]) for t in tokens],
        kept=kept_tokens(enlarged, schedule, keep_scales),
        latents=[f_hat[0] for f_hat in quantizer.f_hats(tokens)],
        painted=touched_cells(enlarged, schedule.last_side),
        image=image,
        opacity=shows,
    )


def _check_input(model: StarModel, image: Tensor, mask: Tensor | None, keep_scales: int) -> None:
    scales, side = len(model.config.schedule), model.config.image_size
    if image.shape != (side, side, 3) or image.dtype != torch.uint8:
        raise ValueError(
            f"image must be uint8 of shape ({side}, {side}, 3), got {image.dtype} of {tuple(image.shape)}"
        )
    if mask is not None and (mask.shape != (side, side) or mask.dtype != torch.bool):
        raise ValueError(
            f"mask must be bool of shape ({side}, {side}), got {mask.dtype} of {tuple(mask.shape)}"
        )
    if not 0 <= keep_scales <= scales:
        raise ValueError(f"keep_scales must be 0 to {scales}, got {keep_scales}")


def window_around(mask: Tensor) -> Window:
    """The square window to generate for ``mask`` (H, W): around it, with some context, within the image."""
    size = len(mask)
    if not mask.any():
        return Window(0, 0, size)
    spans = []
    for axis in (1, 0):  # rows that the mask touches, then columns
        touched = mask.any(axis).nonzero()
        spans.append((int(touched[0]), int(touched[-1]) + 1))
    wanted = round(CONTEXT * max(end - start for start, end in spans))
    side = min(max(wanted, round(SMALLEST_WINDOW * size)), size)
    top, left = (min(max((start + end - side) // 2, 0), size - side) for start, end in spans)
    return Window(top, left, side)


def touched_cells(mask: Tensor, side: int) -> Tensor:
    """Cells of a ``side`` x ``side`` grid over ``mask`` (H, W) that the mask touches: booleans (side, side)."""
    return F.adaptive_max_pool2d(mask[None, None].float(), side)[0, 0] > 0


def kept_tokens(mask: Tensor, schedule: ScaleSchedule, keep_scales: int = 0) -> list[Tensor]:
    """The tokens that an edit keeps: for each scale, booleans (p * p,).

    All tokens of the first ``keep_scales`` scales are kept; of the others, those whose whole cell lies outside ``mask``
    (H, W).
    """
    return [
        ~touched_cells(mask, side).flatten() | (scale < keep_scales)
        for scale, side in enumerate(schedule.patch_nums)
    ]


def opacity(mask: Tensor, width: int) -> Tensor:
    """Weight of the generated pixels, (H, W, 1): 0 outside ``mask`` (H, W), rising to 1 over ``width`` pixels inside.

    Nothing fades at the border of the image, which is no seam.
    """
    outside = (~mask)[None, None].float()
    depth = mask.float()
    for _ in range(width):
        outside = F.max_pool2d(outside, 3, stride=1, padding=1)
        depth += 1 - outside[0, 0]
    return (depth / (width + 1)).unsqueeze(-1)


def fill_from_rim(image: Tensor, mask: Tensor, width: int) -> Tensor:
    """Replace the content of ``mask`` (H, W) by smooth colours of its rim; uint8 (H, W, 3) in and out.

    The push-pull algorithm: average the ``width`` pixels around the mask into ever smaller images, and fill each image
    from the next smaller one. Pixels further away do not count, so that an object elsewhere does not tint the filling.
    """
    near = F.max_pool2d(mask[None, None].float(), 2 * width + 1, stride=1, padding=width) > 0
    rim = (near & ~mask).float()
    filled = _push_pull(image.permute(2, 0, 1)[None].float() * rim, rim)[0].permute(1, 2, 0)
    return torch.where(mask.unsqueeze(-1), filled.round_().to(torch.uint8), image)


def _push_pull(image: Tensor, known: Tensor) -> Tensor:
    """``image`` (1, 3, h, w), which is zero where ``known`` (1, 1, h, w) is, with the zeros filled in."""
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
        box: left, top, right and bottom edge of its place, as fractions of the canvas; it is stretched to fit.
        side: of the canvas, in pixels.

    Returns:
        The canvas, uint8 (side, side, 3), and the mask (side, side) of the area left to generate.

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
    """``image``, uint8 (h, w, 3), resized to a height and width; itself if it has them."""
    if image.shape[:2] == size:
        return image
    pixels = image.permute(2, 0, 1)[None].float()
    fitted = F.interpolate(pixels, size=size, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    return fitted.round_().clamp_(0, 255).to(torch.uint8)
