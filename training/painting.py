"""One picture from one prompt, through the engine that serves users."""

from __future__ import annotations

from star_model import Engine, Sampling
from star_model.engine.editing import Edit
from training.sprites import Pixels


def paint(
    engine: Engine,
    prompt: str,
    seed: int,
    *,
    scales: int | None = None,
    sampling: Sampling | None = None,
    edit: Edit | None = None,
) -> Pixels:
    """The picture of ``prompt``, uint8 (H, W, 3).

    Args:
        engine: with a free slot.
        prompt: what to paint.
        seed: of the picture's random stream.
        scales: how many scales to paint, at least 1; all of them when absent.
        sampling: in place of the model's defaults.
        edit: the image that is edited, if one is.
    """
    model = engine.model
    conditioning = model.encode_prompt(prompt)
    sampling = sampling or model.config.sampling
    sequence = engine.prepare(conditioning, sampling, seed=seed, edit=edit)
    try:
        for _ in range(engine.num_scales if scales is None else scales):
            engine.step([sequence])
        picture: Pixels = engine.preview([sequence])[0].cpu().numpy()
    finally:
        engine.release(sequence)
    return picture
