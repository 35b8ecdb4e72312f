"""The sampling part of a step: from the logits of a batch to its token maps, as each sequence's parameters ask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from star_model.engine.candidates import candidates
from star_model.engine.mixture import gumbel_noise, mix
from star_model.engine.sequence import ImageSequence
from star_model.scales import ScaleSchedule


class TokenSampler:
    """Draws the token maps of the sequences of a step, by each sequence's own random numbers.

    Args:
        schedule: of the model.
        codebook: its vectors.
        together: sample all sequences with the same parameters in one batch, instead of each by itself.
    """

    def __init__(self, schedule: ScaleSchedule, codebook: nn.Embedding, *, together: bool) -> None:
        self._schedule = schedule
        self._codebook = codebook
        self._together = together

    def __call__(self, logits: Tensor, sequences: Sequence[ImageSequence]) -> tuple[Tensor, Tensor]:
        """Draw tokens (B, p * p) from ``logits`` (B, p * p, V); also returns their vectors (B, p * p, z)."""
        scale = sequences[0].scale
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
        """One of the candidates at each position, and its vector, or the mean of all candidates' where smooth."""
        scale, sampling = images[0].scale, images[0].sampling
        if images[0].temperature != 1:
            logits = logits.float() / images[0].temperature
        top_p = torch.stack([s.top_p for s in images]) if sampling.top_p < 1 else None
        left = candidates(logits, top_k=sampling.top_k, top_p=top_p)
        start, end = self._schedule.offsets[scale], self._schedule.offsets[scale + 1]
        tokens = left.draw(torch.stack([s.uniform[start:end] for s in images]))
        vectors = left.mean(self._codebook.weight) if images[0].smooth else self._codebook(tokens)
        return tokens, vectors

    def _mix(self, logits: Tensor, images: Sequence[ImageSequence]) -> tuple[Tensor, Tensor]:
        """The likeliest tokens of a random mixture at each position, and the mixtures' vectors."""
        scale, codebook = images[0].scale, self._codebook.weight
        first, count = self._schedule.offsets[scale], self._schedule.lengths[scale]
        noise = torch.stack(
            [gumbel_noise(s.seed, first, count, len(codebook), logits.device) for s in images]
        )
        weights = mix(logits, noise, self._schedule.progress(scale))
        return weights.argmax(-1), weights @ codebook
