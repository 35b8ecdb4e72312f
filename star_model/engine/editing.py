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
from star_model.scales import ScaleSchedule, Size

FEATHER = 1 / 32
"""Width of the seam, as a fraction of the window's shorter side."""
CONTEXT = 1.5
"""Size of the window around a mask, relative to the mask's."""
SMALLEST_WINDOW = 1 / 4
"""Size of the smallest window, relative to the image's: a smaller one is too few pixels to recognise anything."""


@dataclass(frozen=True)
class Window:
    """A part of an image, in pixels; it has the image's shape, up to rounding."""

    top: int
    left: int
    height: int
    width: int

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.height, self.width

    def crop(self, image: Tensor) -> Tensor:
        """This part of ``image`` (H, W, ...), as a view."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, eq=False)
class Edit:
    """An image to edit, encoded; made by :func:`make_edit`, and shared by all seeds of a request.

    Args:
        shape: number of the image's shape.
        window: the part of the image that is generated, scaled to the model's size.
        tokens: for each scale, the window's own token map (l * s,), ``s`` symbols for each of ``l`` tokens.
        vectors: for each scale, what those symbols stand for (l * s, c).
        kept: for each scale, which symbols the sequence keeps, booleans (l * s,).
        latents: the window's own latent (z, h, w) after each scale.
        painted: where the latent is the sequence's and not the image's, booleans (h, w).
        image: uint8 (H, W, 3).
        opacity: weight of the generated pixels over the image's, 0 to 1, (H, W, 1).
    """

    shape: int
    window: Window
    tokens: list[Tensor]
    vectors: list[Tensor]
    kept: list[Tensor]
    latents: list[Tensor]
    painted: Tensor
    image: Tensor
    opacity: Tensor

    def keep(self, drawn: Tensor, vectors: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """The token map (l * s,) of ``scale`` and its vectors (l * s, c): the image's own where they are kept, else
        ``drawn`` and ``vectors``."""
        kept = self.kept[scale]
        return (
            torch.where(kept, self.tokens[scale], drawn),
            torch.where(kept.unsqueeze(1), self.vectors[scale], vectors),
        )

    def keep_latent(self, f_hat: Tensor, scale: int) -> Tensor:
        """The latent (z, h, w) after ``scale``: ``f_hat`` where it is painted, else the image's own."""
        return torch.where(self.painted, f_hat, self.latents[scale])

    def composite(self, painted: Tensor) -> Tensor:
        """Blend the generated pixels, uint8 (H, W, 3), into their window of the image; uint8 (H, W, 3).

        Outside the mask, the result is the image exactly.
        """
        result = self.image.clone()
        part, opacity = self.window.crop(result), self.window.crop(self.opacity)
        fitted = resize(painted, self.window.size)
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
        image: uint8 (H, W, 3), of a size that the model makes.
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
    size = image.shape[:2]
    image = image.to(model.device)
    inside = torch.ones(size, dtype=torch.bool) if mask is None else mask
    inside = inside.to(model.device)
    window = window_around(inside) if focus else Window(0, 0, *size)
    seam = round(min(window.size) * FEATHER)
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
    size, quantizer = (image.shape[0], image.shape[1]), model.vqvae.quantizer
    shape = model.config.sizes.index(size)
    pixels = resize(window.crop(image), size).permute(2, 0, 1).float() / 127.5 - 1
    tokens = model.vqvae.encode(pixels.unsqueeze(0))
    # Nearest neighbours: the window is never larger than the image, so no pixel of the mask is lost.
    enlarged = F.interpolate(window.crop(mask)[None, None].float(), size=size)[0, 0] > 0
    kept = kept_tokens(enlarged, model.config.schedules[shape], keep_scales)
    return Edit(
        shape=shape,
        window=window,
        tokens=[t[0] for t in tokens],
        vectors=[quantizer.vectors(t)[0] for t in tokens],
        kept=[of_scale.repeat_interleave(quantizer.symbols) for of_scale in kept],
        latents=[f_hat[0] for f_hat in quantizer.f_hats(tokens, shape)],
        painted=touched_cells(enlarged, model.config.latent_size(shape)),
        image=image,
        opacity=shows,
    )


def _check_input(model: StarModel, image: Tensor, mask: Tensor | None, keep_scales: int) -> None:
    scales, sizes = len(model.config.schedule), model.config.sizes
    if tuple(image.shape) not in [(*size, 3) for size in sizes] or image.dtype != torch.uint8:
        known = " or ".join(f"({height}, {width}, 3)" for height, width in sizes)
        raise ValueError(
            f"image must be uint8 of shape {known}, got {image.dtype} of {tuple(image.shape)}"
        )
    size = tuple(image.shape[:2])
    if mask is not None and (mask.shape != size or mask.dtype != torch.bool):
        raise ValueError(
            f"mask must be bool of shape {size}, got {mask.dtype} of {tuple(mask.shape)}"
        )
    if not 0 <= keep_scales <= scales:
        raise ValueError(f"keep_scales must be 0 to {scales}, got {keep_scales}")


def window_around(mask: Tensor) -> Window:
    """The window to generate for ``mask`` (H, W): around it, with some context, within the image and of its shape."""
    height, width = mask.shape
    if not mask.any():
        return Window(0, 0, height, width)
    spans = []
    for axis in (1, 0):  # rows that the mask touches, then columns
        touched = mask.any(axis).nonzero()
        spans.append((int(touched[0]), int(touched[-1]) + 1))
    # Both sides are counted in those of a square image, of which the longer is whole pixels.
    longest = max(height, width)
    extents = [
        (end - start) * longest / side
        for (start, end), side in zip(spans, (height, width), strict=True)
    ]
    wanted = round(CONTEXT * max(extents))
    side = min(max(wanted, round(SMALLEST_WINDOW * longest)), longest)
    sides = (max(round(side * height / longest), 1), max(round(side * width / longest), 1))
    top, left = (
        min(max((start + end - part) // 2, 0), whole - part)
        for (start, end), part, whole in zip(spans, sides, (height, width), strict=True)
    )
    return Window(top, left, *sides)


def touched_cells(mask: Tensor, size: int | Size) -> Tensor:
    """Cells of a grid of ``size``, (h, w) or one side, over ``mask`` (H, W) that the mask touches: booleans (h, w)."""
    return F.adaptive_max_pool2d(mask[None, None].float(), size)[0, 0] > 0


def kept_tokens(mask: Tensor, schedule: ScaleSchedule, keep_scales: int = 0) -> list[Tensor]:
    """The tokens that an edit keeps: for each scale, booleans (l,).

    All tokens of the first ``keep_scales`` scales are kept; of the others, those whose whole cell lies outside ``mask``
    (H, W).
    """
    return [
        ~touched_cells(mask, size).flatten() | (scale < keep_scales)
        for scale, size in enumerate(schedule.sizes)
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
    image: Tensor, box: tuple[float, float, float, float], size: int | Size
) -> tuple[Tensor, Tensor]:
    """Put an image on a larger canvas, for out-painting.

    Args:
        image: uint8 (h, w, 3), of any size.
        box: left, top, right and bottom edge of its place, as fractions of the canvas; it is stretched to fit.
        size: of the canvas, in pixels: its side, or its height and width (H, W).

    Returns:
        The canvas, uint8 (H, W, 3), and the mask (H, W) of the area left to generate.

    Raises:
        ValueError: when the box reaches beyond the canvas, or is less than a pixel wide or high.
    """
    height, width = (size, size) if isinstance(size, int) else size
    left, right = (round(edge * width) for edge in box[::2])
    top, bottom = (round(edge * height) for edge in box[1::2])
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"box must be left, top, right, bottom with 0 <= left < right <= 1 and so on, got {box}"
        )
    canvas = torch.zeros(height, width, 3, dtype=torch.uint8, device=image.device)
    canvas[top:bottom, left:right] = resize(image, (bottom - top, right - left))
    mask = torch.ones(height, width, dtype=torch.bool, device=image.device)
    mask[top:bottom, left:right] = False
    return canvas, mask


def resize(image: Tensor, size: Size) -> Tensor:
    """``image``, uint8 (h, w, 3), resized to a height and width; itself if it has them."""
    if image.shape[:2] == size:
        return image
    pixels = image.permute(2, 0, 1)[None].float()
    fitted = F.interpolate(pixels, size=size, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    return fitted.round_().clamp_(0, 255).to(torch.uint8)
