"""One picture from one prompt, through the engine that serves users."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from star_model import Engine, SamplingParams
from star_model.engine.editing import Edit
from training.sprites import Pixels


def paint(
    engine: Engine,
    prompt: str,
    seed: int,
    *,
    scales: int | None = None,
    sampling: Mapping[str, float] | None = None,
    edit: Edit | None = None,
) -> Pixels:
    """The picture of ``prompt``, uint8 (H, W, 3).

    Args:
        engine: with a free slot.
        prompt: what to paint.
        seed: of the picture's random stream.
        scales: how many scales to paint, at least 1; all of them when absent.
        sampling: fields of :class:`SamplingParams` in place of the model's defaults.
        edit: the image that is edited, if one is.
    """
    model = engine.model
    conditioning = model.encode_prompt(prompt)
    defaults = dataclasses.asdict(model.sampling_defaults)
    params = SamplingParams(seed=seed, **(defaults | dict(sampling or {})))
    sequence = engine.prepare(conditioning, params, edit=edit)
    try:
        for _ in range(engine.num_scales if scales is None else scales):
            engine.step([sequence])
        picture: Pixels = engine.preview([sequence])[0].cpu().numpy()
    finally:
        engine.release(sequence)
    return picture
