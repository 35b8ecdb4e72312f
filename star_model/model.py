"""A loaded model: its configuration, its three networks, and where they live."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from star_model.about import About
from star_model.config import ModelConfig
from star_model.networks.text_encoder import ClassConditioning, Conditioning, TextEncoder
from star_model.networks.transformer import StarTransformer
from star_model.networks.vqvae import VQVAE
from star_model.sampling import Sampling
from star_model.vocabulary import PromptReader


@dataclass(frozen=True)
class StarModel:
    """What an engine runs.

    Attributes:
        transformer: in ``dtype``.
        vqvae: in float32, so that tokens do not depend on the precision of the transformer's products.
        text_encoder: prompt -> conditioning; for a class-conditional model, the name of a class -> its number.
        dtype: of the transformer's weights, and so of keys and values.
        about: the model in words, for people.
        reader: how prompts are read, if the model knows few things; None if as they are.
    """

    config: ModelConfig
    transformer: StarTransformer
    vqvae: VQVAE
    text_encoder: TextEncoder
    device: torch.device
    dtype: torch.dtype
    about: About = field(default_factory=About)
    reader: PromptReader | None = None

    def encode_prompt(self, prompt: str) -> Conditioning:
        """The conditioning of ``prompt`` as the model reads it, which :attr:`TextConditioning.read_as` says."""
        read_as = prompt if self.reader is None else self.reader.read(prompt)
        (conditioning,) = self.text_encoder.encode([read_as])
        if read_as == prompt or isinstance(conditioning, ClassConditioning):
            return conditioning
        return replace(conditioning, read_as=read_as)

    @property
    def num_parameters(self) -> int:
        """Parameters of the transformer and the VQVAE; the text encoder not counted."""
        return sum(p.numel() for m in (self.transformer, self.vqvae) for p in m.parameters())

    @property
    def sampling_defaults(self) -> Sampling:
        return self.config.sampling

    def decode(self, f_hat: Tensor) -> Tensor:
        """Latents (B, z, P, P) -> images (B, 3, H, W) in [-1, 1]."""
        return self.vqvae.decode(f_hat)
