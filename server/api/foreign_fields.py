"""Fields that requests to other image servers have, and what to do instead of them here."""

from __future__ import annotations

_SCALES = "the model always runs all its scales; draft leaves out the finest ones"
INSTEAD: dict[str, str] = {
    "style": "put the style into the prompt",
    **dict.fromkeys(("steps", "num_steps", "num_inference_steps"), _SCALES),
    **dict.fromkeys(("width", "height", "resolution"), "send size or aspect_ratio"),
    **dict.fromkeys(("cfg", "cfg_scale"), "send guidance_scale"),
    **dict.fromkeys(("num_images", "num_images_per_prompt", "samples", "batch_size"), "send n"),
    **dict.fromkeys(("sampler", "scheduler"), "schedulers are for diffusion models"),
    **dict.fromkeys(("strength", "denoising_strength"), "send keep_scales"),
    **dict.fromkeys(("inputs", "text"), "send prompt"),
    "prompts": "send a request for each prompt",
    "output_format": "send format",
    "output_compression": "send quality",
    "response_format": "Accept chooses between JSON and the file of the image",
}
"""Fields of other servers' requests, in lower case -> what to do instead."""
