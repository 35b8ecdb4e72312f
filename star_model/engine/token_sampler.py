"""The sampling part of a step: from the logits of a batch to its token maps, as each sequence's parameters ask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from star_model.engine.candidates import candidates
from star_model.engine.mixture import gumbel_noise, mix
from star_model.engine.sequence import ImageSequence
from star_model.networks.quantizer import Quantizer


class TokenSampler:
    """Draws the token maps of the sequences of a step, by each sequence's own random numbers.

    Args:
        quantizer: of the model.
        device: on which tokens are drawn.
        together: sample all sequences with the same parameters in one batch, instead of each by itself.
    """

    def __init__(self, quantizer: Quantizer, device: torch.device, *, together: bool) -> None:
        self._quantizer = quantizer
        self._values = quantizer.values.to(device)
        self._symbols = quantizer.symbols
        self._together = together

    def __call__(self, logits: Tensor, sequences: Sequence[ImageSequence]) -> tuple[Tensor, Tensor]:
        """Draw tokens from logits, which hold the ``V`` values of each of a token's ``s`` symbols in turn.

        Args:
            logits: (B, l, s * V).
            sequences: all at one scale, and of one shape.

        Returns:
            Tokens (B, l * s), and what they stand for, (B, l * s, c).
        """
        scale = sequences[0].scale
        logits = torch.unflatten(logits, 2, (self._symbols, -1)).flatten(1, 2)  # (B, l * s, V)
        maps: dict[int, tuple[Tensor, Tensor]] = {}
        for members in self._alike(sequences):
            images = [sequences[i] for i in members]
            rows = (
                logits
                if len(members) == len(sequences)
                else torch.stack([logits[i] for i in members])
            )
            drawn = self._mix(rows, images) if images[0].mixed else self._draw(rows, images)
            maps.update(zip(members, zip(*drawn, strict=True), strict=True))
        for i, sequence in enumerate(sequences):
            if sequence.edit is not None:
                maps[i] = sequence.edit.keep(*maps[i], scale)
        all_tokens, all_vectors = zip(*(maps[i] for i in range(len(sequences))), strict=True)
        return torch.stack(all_tokens), torch.stack(all_vectors)

    def _alike(self, sequences: Sequence[ImageSequence]) -> Iterable[list[int]]:
        """Indices of ``sequences`` in groups that are sampled in one batch."""
        if not self._together:
            return ([i] for i in range(len(sequences)))
        groups: dict[tuple[float, ...], list[int]] = {}
        for i, sequence in enumerate(sequences):
            top_k, top_p = sequence.sampling.top_k, sequence.sampling.top_p
            kind = (top_k, top_p < 1, sequence.smooth, sequence.mixed, sequence.temperature)
            groups.setdefault(kind, []).append(i)
        return groups.values()

    def _draw(self, logits: Tensor, images: Sequence[ImageSequence]) -> tuple[Tensor, Tensor]:
        """One of the candidates of each symbol, and its vector, or the mean of all candidates' where smooth."""
        sampling = images[0].sampling
        logits = _tempered(logits, images[0].temperature)
        top_p = torch.stack([s.top_p for s in images]) if sampling.top_p < 1 else None
        left = candidates(logits, top_k=sampling.top_k, top_p=top_p)
        first, count = self._place(images[0])
        tokens = left.draw(torch.stack([s.uniform[first : first + count] for s in images]))
        if images[0].smooth:
            return tokens, left.mean(self._values)
        return tokens, self._quantizer.vectors(tokens)

    def _mix(self, logits: Tensor, images: Sequence[ImageSequence]) -> tuple[Tensor, Tensor]:
        """The likeliest values of a random mixture for each symbol, and the mixtures' vectors."""
        logits = _tempered(logits, images[0].temperature)
        first, count = self._place(images[0])
        noise = torch.stack(
            [gumbel_noise(s.seed, first, count, len(self._values), logits.device) for s in images]
        )
        schedule = self._quantizer.schedules[images[0].shape]
        weights = mix(logits, noise, schedule.progress(images[0].scale))
        return weights.argmax(-1), weights @ self._values

    def _place(self, image: ImageSequence) -> tuple[int, int]:
        """The number of the first symbol of the image's scale among all of the image, and how many it has."""
        schedule, symbols = self._quantizer.schedules[image.shape], self._symbols
        return schedule.offsets[image.scale] * symbols, schedule.lengths[image.scale] * symbols


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits.float() / temperature
