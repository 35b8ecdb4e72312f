"""From a prompt to an image in one call, with the defaults of the model and the pixels of the server."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from star_model.engine.editing import Edit
from star_model.engine.engine import Engine, Mode, default_mode
from star_model.errors import ConfigError
from star_model.guidance import has_guidance
from star_model.model import StarModel
from star_model.networks.text_encoder import Conditioning
from star_model.sampling import SEEDS, Sampling

if TYPE_CHECKING:
    from PIL.Image import Image


def generate(
    model: StarModel,
    prompt: str,
    *,
    seed: int = 0,
    negative_prompt: str = "",
    sampling: Sampling | None = None,
    edit: Edit | None = None,
    size: tuple[int, int] | None = None,
    mode: Mode | None = None,
) -> Image:
    """Generate one image.

    It is the server's image for the same request, bit for bit, in deterministic mode with the same number of threads,
    type of device and release of PyTorch.

    Args:
        model: a loaded model.
        prompt: describes the image; for a class-conditional model, the name of a class.
        seed: 0 to 2^32 - 1; the same seed gives the same image.
        negative_prompt: what guidance leads away from; empty for none.
        sampling: parameters, by default the model's own (:attr:`StarModel.sampling_defaults`).
        edit: an image to start from, made by :func:`star_model.make_edit`.
        size: width and height in pixels, one of the model's sizes, by default the first of them.
        mode: see :class:`star_model.Engine`; by default the server's: deterministic on a CPU, fast on a GPU.

    Returns:
        a PIL image in RGB. What is drawn otherwise than the prompt asks for is a ``UserWarning``.

    Raises:
        ConfigError: the seed is out of range, the model has no such size, or a negative prompt is given without
            guidance.
        UnknownClassError: a class-conditional model has no such class.
    """
    (image,) = generate_many(
        model,
        [prompt],
        seed=seed,
        negative_prompt=negative_prompt,
        sampling=sampling,
        edit=edit,
        size=size,
        mode=mode,
        batch=1,
    )
    return image


def generate_many(
    model: StarModel,
    prompts: Iterable[str],
    *,
    seed: int = 0,
    negative_prompt: str = "",
    sampling: Sampling | None = None,
    edit: Edit | None = None,
    size: tuple[int, int] | None = None,
    mode: Mode | None = None,
    batch: int = 8,
) -> Iterator[Image]:
    """Generate an image of each prompt, in order, and yield each batch as it is done.

    Image ``i`` is ``generate(model, prompts[i], seed=seed + i)``; in fast mode, but for the rounding of a batch.

    Args:
        model: a loaded model.
        prompts: as of :func:`generate`; read as far as they are needed.
        seed: of the first image; each image has the next one.
        negative_prompt: of all images.
        sampling: of all images.
        edit: of all images.
        size: of all images.
        mode: see :func:`generate`.
        batch: images in flight at a time, at least 1; each takes memory.

    Raises:
        ConfigError, UnknownClassError: see :func:`generate`.
    """
    sampling = sampling or model.sampling_defaults
    scales = len(model.config.schedule)
    if negative_prompt and not has_guidance(sampling, model.config.guidance, scales):
        raise ConfigError(
            "a negative prompt needs guidance, and guidance_scale is "
            f"{sampling.guidance_scale:g}; raise it"
        )
    if not 0 <= seed < SEEDS:
        raise ConfigError(f"seed must be from 0 to {SEEDS - 1}, got {seed}")
    return _images(
        Engine(model, slots=batch, mode=mode or default_mode(model.device.type)),
        iter(prompts),
        seed,
        negative_prompt,
        sampling,
        edit,
        _shape(model, size),
    )


def _shape(model: StarModel, size: tuple[int, int] | None) -> int:
    """Return the number of a size (width, height) among the model's."""
    sizes = [(width, height) for height, width in model.config.sizes]
    if size is None:
        return 0
    if tuple(size) not in sizes:
        raise ConfigError(f"size must be one of {sizes}, width and height, got {size}")
    return sizes.index((size[0], size[1]))


def _encode(model: StarModel, prompt: str) -> Conditioning:
    """Encode a prompt; warn of what is drawn otherwise than it asks for."""
    text = model.encode_prompt(prompt)
    for note in text.notes:
        _warn(f"{prompt!r}: {note}")
    if text.truncated:
        _warn(f"this end of the prompt was left out: {text.truncated!r}")
    return text


def _warn(sentence: str) -> None:
    """Warn at the line that called this module, or that took the next image of it."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        level, frame = level + 1, frame.f_back
    warnings.warn(sentence, stacklevel=level)


def _images(
    engine: Engine,
    prompts: Iterator[str],
    seed: int,
    negative_prompt: str,
    sampling: Sampling,
    edit: Edit | None,
    shape: int,
) -> Iterator[Image]:
    """Yield the images of ``prompts``, as many in flight as the engine has slots."""
    from PIL import Image

    model = engine.model
    # A negative prompt need not be something that the model can draw, so it is never read as something else.
    negative = model.text_encoder.encode([negative_prompt])[0] if negative_prompt else None
    while texts := [_encode(model, prompt) for prompt in islice(prompts, engine.total_slots)]:
        sequences = [
            engine.prepare(
                text, sampling, seed=(seed + i) % SEEDS, negative=negative, edit=edit, shape=shape
            )
            for i, text in enumerate(texts)
        ]
        seed += len(texts)
        while not sequences[0].done:
            engine.step(sequences)
        for pixels in engine.finish(sequences).cpu():
            yield Image.fromarray(pixels.numpy())
