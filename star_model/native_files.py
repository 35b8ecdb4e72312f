"""Names of the files in a native directory; what they hold is in :mod:`star_model.checkpoints.native`."""

from __future__ import annotations

CONFIG = "config.json"
TRANSFORMER = "transformer.safetensors"
TOKENIZER = "vqvae.safetensors"
TEXT_ENCODER = "text_encoder"
SUMS = "SHA256SUMS"
