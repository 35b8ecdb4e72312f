"""A loaded model: its configuration, its three networks, and their device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from star_model.about import About
from star_model.config import ModelConfig
from star_model.errors import UnknownThingError
from star_model.gallery import GalleryPicture
from star_model.networks.image_tokenizer import ImageTokenizer
from star_model.networks.text_encoder import ClassConditioning, Conditioning, TextEncoder
from star_model.networks.transformer import StarTransformer
from star_model.prompt_reader import PromptReader
from star_model.reading import Reading, cannot_draw
from star_model.sampling import Sampling


@dataclass(frozen=True)
class StarModel:
    """A loaded model, for an :class:`~star_model.engine.engine.Engine` to run.

    Attributes:
        config: its configuration.
        transformer: in ``dtype``.
        vqvae: quantizer and encoder in float32, so that tokens do not depend on the precision of the transformer.
        text_encoder: from prompts to conditioning; for a class-conditional model, from class names to numbers.
        device: of all networks.
        dtype: of the transformer's weights, and so of keys and values.
        about: description and examples, for people.
        reader: reads prompts for a model with a small vocabulary; None leaves them as they are.
        gallery: pictures that it painted ahead.
    """

    config: ModelConfig
    transformer: StarTransformer
    vqvae: ImageTokenizer
    text_encoder: TextEncoder
    device: torch.device
    dtype: torch.dtype
    about: About = field(default_factory=About)
    reader: PromptReader | None = None
    gallery: tuple[GalleryPicture, ...] = ()

    @property
    def dtype_name(self) -> str:
        """The name of :attr:`dtype`, such as ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")

    def encode_prompt(self, prompt: str) -> Conditioning:
        """Encode ``prompt`` as the reader reads it; :attr:`TextConditioning.notes` say what is drawn otherwise.

        Raises:
            UnknownClassError: when a class-conditional model has no such class.
            UnknownThingError: when the prompt asks for what nothing is drawn in place of, such as people.
        """
        reading = self.read_prompt(prompt)
        if reading.refused:
            raise UnknownThingError(cannot_draw(self.config.name, reading))
        (conditioning,) = self.text_encoder.encode([reading.prompt])
        if not reading.notes or isinstance(conditioning, ClassConditioning):
            return conditioning
        return replace(conditioning, notes=reading.notes)

    def read_prompt(self, prompt: str) -> Reading:
        """Read ``prompt`` as a model with a small vocabulary does; any other model takes it as it stands."""
        return Reading(prompt) if self.reader is None else self.reader.read(prompt)

    @property
    def num_parameters(self) -> int:
        """Parameters of the transformer and the VQVAE; the text encoder not counted."""
        return sum(p.numel() for m in (self.transformer, self.vqvae) for p in m.parameters())

    @property
    def sampling_defaults(self) -> Sampling:
        """Sampling parameters of a request that gives none."""
        return self.config.sampling

    def decode(self, f_hat: Tensor) -> Tensor:
        """Decode latents (B, z, P, P) to images (B, 3, H, W) in [-1, 1]."""
        return self.vqvae.decode(f_hat)
