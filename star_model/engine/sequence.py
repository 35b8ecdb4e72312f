"""The state of one image in flight, besides what is in its slot."""

from __future__ import annotations

from torch import Tensor

from star_model.engine.editing import Edit
from star_model.networks.text_encoder import Conditioning
from star_model.sampling import Sampling


class ImageSequence:
    """One image in flight.

    Attributes:
        slot: index in the key/value cache; None once released.
        sampling: sampling parameters.
        seed: of the random numbers.
        scale: the next scale to be predicted.
        shape: number of the image's shape.
        tokens: the token map of each scale predicted so far: (l * s,), ``s`` symbols for each of ``l`` tokens.
        f_hat: the latent (z, H, W): the sum of the tokens' contributions; at smooth scales, of the candidates' means,
            at mixed ones, of the mixtures, whose likeliest tokens are in ``tokens``.
        uniform: the image's own random numbers, one for each symbol of all scales (L * s,).
        edit: the image that is edited; None for one that is generated from nothing.
        negative: conditioning of the unconditional row.
        strengths: of guidance, for each scale, on the device.
        top_p: that of ``sampling``, on the device.
        guided_scales: for each scale, whether the unconditional row is computed too.
        next_tokens: the embedded input of the next scale, (2, l, C), or (1, l, C) for both guidance rows; None after
            the last.
    """

    def __init__(
        self,
        slot: int,
        sampling: Sampling,
        seed: int,
        *,
        shape: int,
        uniform: Tensor,
        strengths: Tensor,
        top_p: Tensor,
        guided_scales: tuple[bool, ...],
        start: Tensor,
        f_hat: Tensor,
        negative: Conditioning,
        edit: Edit | None = None,
    ) -> None:
        self.slot: int | None = slot
        self.sampling = sampling
        self.seed = seed
        self.shape = shape
        self.uniform = uniform
        self.strengths, self.top_p = strengths, top_p
        self.guided_scales = guided_scales
        self.scale = 0
        self.num_scales = len(guided_scales)
        self.temperatures = sampling.temperatures(self.num_scales)
        self.tokens: list[Tensor] = []
        self.f_hat = f_hat
        self.edit = edit
        self.negative = negative
        self.next_tokens: Tensor | None = start

    @property
    def done(self) -> bool:
        """True once all scales are predicted, but those that a draft leaves out."""
        return self.scale >= self.num_scales - self.sampling.draft

    @property
    def smooth(self) -> bool:
        """True if the next scale uses the candidates' mean instead of a drawn token."""
        return self._is_last(self.sampling.smooth_scales)

    @property
    def unguided(self) -> bool:
        """True if the next scale is one of the last, which run without guidance."""
        return self._is_last(self.sampling.unguided_scales)

    @property
    def guided(self) -> bool:
        """True if the next scale computes the unconditional row too."""
        return self.guided_scales[self.scale]

    @property
    def mixed(self) -> bool:
        """True if the next scale uses a random mixture of all tokens instead of a drawn one."""
        return self._is_last(self.sampling.mixed_scales) and not self.unguided

    @property
    def temperature(self) -> float:
        """What the logits of the next scale are divided by."""
        return self.temperatures[self.scale]

    def _is_last(self, scales: int) -> bool:
        return self.scale >= self.num_scales - scales

    def advance(self, tokens: Tensor, f_hat: Tensor, next_tokens: Tensor | None) -> None:
        """Record the result of a step; ``next_tokens`` is None after the last scale."""
        self.tokens.append(tokens)
        self.f_hat, self.next_tokens = f_hat, next_tokens
        self.scale += 1
