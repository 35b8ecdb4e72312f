"""The network of each kind of image tokenizer."""

from __future__ import annotations

from collections.abc import Callable

from star_model.config import ModelConfig
from star_model.networks.image_tokenizer import ImageTokenizer
from star_model.networks.patch_tokenizer import PatchTokenizer
from star_model.networks.vqvae import VQVAE, BitAutoencoder

_NETWORKS: dict[str, Callable[..., ImageTokenizer]] = {
    "convolutional": VQVAE,
    "patch": PatchTokenizer,
    "bits": BitAutoencoder,
}
"""By ``tokenizer.kind`` of the configuration."""


def build_tokenizer(config: ModelConfig) -> ImageTokenizer:
    """The image tokenizer that ``config`` describes, with the weights that PyTorch begins with."""
    return _NETWORKS[config.tokenizer.kind](config.tokenizer, *config.schedules)
