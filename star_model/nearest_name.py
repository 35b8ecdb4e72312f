"""Names of things by their meaning: cosines of a text encoder's features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Pooled = Callable[[Sequence[str]], Tensor]
"""From N texts to the text encoder's pooled features (N, D)."""

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Likeness:
    """A thing, and how like one of its names is to a text: a cosine, -1 to 1."""

    thing: str
    value: float


class NearestName:
    """Nearest-neighbour search among names of things, by cosine similarity of pooled features.

    Args:
        names: thing -> its names, at least one in total.
        pooled: features of texts.
    """

    def __init__(self, names: Mapping[str, Sequence[str]], pooled: Pooled) -> None:
        self._pooled = pooled
        self._things = [thing for thing, called in names.items() for _ in called]
        self._features = F.normalize(
            _in_batches(pooled, [name for called in names.values() for name in called]), dim=1
        )  # (N, D)

    def order(self, text: str) -> list[Likeness]:
        """All things, the one with the name nearest to ``text`` first."""
        cosines = self._features @ F.normalize(self._pooled([text])[0], dim=0)
        best: dict[str, float] = {}
        for index in cosines.argsort(descending=True).tolist():
            best.setdefault(self._things[index], float(cosines[index]))
        return [Likeness(thing, value) for thing, value in best.items()]

    def likeness(self, text: str, others: Sequence[str]) -> list[float]:
        """Cosine of ``text`` and each of ``others``."""
        features = F.normalize(self._pooled([text, *others]), dim=1)
        cosines: list[float] = (features[1:] @ features[0]).tolist()
        return cosines


def _in_batches(pooled: Pooled, texts: Sequence[str]) -> Tensor:
    """Features (N, D) of many texts; those of one length together, since the others of a batch are padded."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = [
        pooled([texts[i] for i in order[start : start + _BATCH]])
        for start in range(0, len(order), _BATCH)
    ]
    place = torch.tensor(order).argsort()
    return torch.cat(parts)[place]
