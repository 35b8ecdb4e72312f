"""The interface of an image tokenizer: image <-> latent <-> token maps, whatever network is around the quantizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from star_model.config import ImageTokenizerConfig
from star_model.networks.quantizer import Quantizer


class ImageTokenizer(nn.Module):
    """An encoder, the multi-scale quantizer, and a decoder; kinds differ in the two networks.

    Shapes below: ``B`` images of ``H`` x ``W`` pixels in [-1, 1], latents (B, z, h, w) with
    ``h = H / config.downsampling``. Encoder and quantizer stay in float32 on every device, so that the tokens of
    an image do not depend on the precision of the decoder.

    Attributes:
        encoder: image -> features, needed only for editing and training.
        quantizer: features <-> token maps.
        decoder: latent -> image; the module that is compiled.
    """

    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, config: ImageTokenizerConfig, quantizer: Quantizer) -> None:
        super().__init__()
        self.config = config
        self.quantizer = quantizer

    @property
    def can_encode(self) -> bool:
        """Whether it has an encoder, without which no image can be edited."""
        return next(self.encoder.parameters(), None) is not None

    def features(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> continuous latents (B, z, h, w), not yet quantized."""
        out: Tensor = self.encoder(image)
        return out

    def paint(self, latent: Tensor) -> Tensor:
        """Latents (B, z, h, w) in the decoder's type -> images (B, 3, H, W), nominally in [-1, 1], not clamped."""
        image: Tensor = self.decoder(latent)
        return image

    @property
    def decoding_modules(self) -> tuple[nn.Module, ...]:
        """The modules that :meth:`paint` runs; all others are in float32, and train without the decoder."""
        return (self.decoder,)

    @torch.no_grad()
    def encode(self, image: Tensor) -> list[Tensor]:
        """The token maps of images (B, 3, H, W) in [-1, 1]: the tokens of each scale, see :class:`Quantizer`."""
        return self.quantizer.encode(self.features(image))

    def set_decoder_format(self, dtype: torch.dtype) -> None:
        """Give the decoder the precision and the memory format in which it is fastest; the rest stays as it is."""
        for module in self.decoding_modules:
            module.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def decode(self, f_hat: Tensor) -> Tensor:
        """Latents (B, z, h, w), of all scales or the first few -> images (B, 3, H, W) clamped to [-1, 1]."""
        dtype = next(self.decoder.parameters()).dtype
        image = self.paint(f_hat.to(dtype, memory_format=torch.channels_last))
        return image.to(f_hat.dtype).clamp(-1, 1)

    def decode_tokens(self, tokens: Sequence[Tensor]) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of the given token maps of the first shape, of all scales or the first few."""
        *_, f_hat = self.quantizer.f_hats(tokens)
        return self.decode(f_hat)
