"""Static key/value slots: the memory of the images that are being painted.

A slot holds the keys and values of one image, of both rows of its guidance pair, and those of its text, or
what its class modulates the layers by. All slots are allocated once; a sequence takes one when it is prepared
and gives it back when it ends. The last scale's keys and values are never read again, so slots leave them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from star_model.config import HEAD_DIM, ModelConfig
from star_model.errors import OutOfSlotsError
from star_model.networks.attention import additive_bias
from star_model.transfer import to_device


class KeyValues(Protocol):
    """Where the blocks of a transformer find what their queries attend to."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add this step's keys and values (B, L, H, 64); return those of all tokens so far (B, T, H, 64)."""

    def text(self, layer: int) -> tuple[Tensor, Tensor]:
        """The text's keys and values (B', T, H, 64): one row for each row of the batch, or for each pair."""

    @property
    def text_mask(self) -> Tensor:
        """Which text positions are not padding, (B', 1, 1, T), as :class:`~star_model.networks.attention.Attend` takes
        it."""


class KVCache:
    """``slots`` preallocated slots on ``device``.

    Sizes: image keys and values ``[layer, k or v, slot, guidance row, token, head, 64]``, text likewise with
    the rows that the model needs (one when the prompt's cross-attention serves both), modulation
    ``[slot, guidance row, vector, width]``. What a model does not have has a size of 0.
    """

    def __init__(
        self, config: ModelConfig, *, slots: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        t = config.transformer
        self.schedule = config.schedule
        heads = (t.num_heads, HEAD_DIM)
        image = (t.depth, 2, slots, 2, self.schedule.cached_tokens, *heads)
        text = (t.depth, 2, slots, t.text_rows, config.text_encoder.max_tokens, *heads)
        self.image = torch.zeros(image, device=device, dtype=dtype)
        self.text = torch.zeros(text, device=device, dtype=dtype)
        self.text_mask = torch.zeros(
            slots, t.text_rows, config.text_encoder.max_tokens, device=device, dtype=torch.bool
        )
        self.modulation = torch.zeros(
            slots, 2, t.modulation_vectors, t.width, device=device, dtype=dtype
        )
        self._free = list(range(slots - 1, -1, -1))

    @property
    def total_slots(self) -> int:
        return self.image.shape[2]

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def allocate(self) -> int:
        """Take a free slot.

        Raises:
            OutOfSlotsError: when none is free.
        """
        if not self._free:
            raise OutOfSlotsError(
                f"all {self.total_slots} slots are in use; wait for a sequence to finish, or allocate more"
            )
        return self._free.pop()

    def free(self, slot: int) -> None:
        """Give ``slot`` back."""
        if slot in self._free:
            raise ValueError(f"slot {slot} is already free")
        self._free.append(slot)

    def write_text(self, slot: int, keys_values: Tensor, mask: Tensor) -> None:
        """Store a text's keys and values (layers, 2, rows, T, H, 64) and its mask (rows, T) in ``slot``."""
        self.text[:, :, slot] = keys_values
        self.text_mask[slot] = mask

    def write_modulation(self, slot: int, modulation: Tensor) -> None:
        """Store what the classes of a guidance pair modulate the layers by, (2, 6 * layers + 2, C), in ``slot``."""
        self.modulation[slot] = modulation

    def view(self, slots: Sequence[int] | Tensor, scale: int, *, rows: int = 2) -> SlotView:
        """What one step over ``slots`` at ``scale`` reads and writes, of the first ``rows`` of a guidance pair."""
        return SlotView(self, slots, scale, rows)


class SlotView:
    """The :class:`KeyValues` of a step: with both rows, ``2 i`` and ``2 i + 1`` are the pair in ``slots[i]``.

    Adjacent ascending slots are read where they lie; others, and those in a tensor, are gathered into a copy.
    """

    def __init__(
        self, cache: KVCache, slots: Sequence[int] | Tensor, scale: int, rows: int
    ) -> None:
        self._cache = cache
        self._slots = _index(slots, cache.image.device)
        self._rows = rows
        offsets = cache.schedule.offsets
        self._start, self._end = offsets[scale], offsets[scale + 1]
        self._is_last = scale == len(cache.schedule) - 1

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        image, slots, rows = self._cache.image[layer], self._slots, self._rows
        start, end = self._start, self._end
        if self._is_last:  # read once, here; never stored
            keys, values = (image[i, slots, :rows, :start].flatten(0, 1) for i in (0, 1))
            return torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        image[0, slots, :rows, start:end] = torch.unflatten(k, 0, (-1, rows))
        image[1, slots, :rows, start:end] = torch.unflatten(v, 0, (-1, rows))
        return image[0, slots, :rows, :end].flatten(0, 1), image[1, slots, :rows, :end].flatten(
            0, 1
        )

    def text(self, layer: int) -> tuple[Tensor, Tensor]:
        text = self._cache.text[layer]
        return text[0, self._slots, : self._rows].flatten(0, 1), text[
            1, self._slots, : self._rows
        ].flatten(0, 1)

    @cached_property
    def text_mask(self) -> Tensor:
        mask = self._cache.text_mask[self._slots, : self._rows].flatten(0, 1)[:, None, None, :]
        return additive_bias(mask, self._cache.text.dtype)

    @cached_property
    def modulation(self) -> Tensor | None:
        """What the classes modulate the layers by, (B, 6 * layers + 2, C); None for a model without."""
        modulation = self._cache.modulation
        return modulation[self._slots, : self._rows].flatten(0, 1) if modulation.shape[2] else None


def _index(slots: Sequence[int] | Tensor, device: torch.device) -> slice | Tensor:
    """What indexes the dimension of slots: a slice where they are adjacent and ascending."""
    if isinstance(slots, Tensor):
        return slots
    first, n = slots[0], len(slots)
    if list(slots) == list(range(first, first + n)):
        return slice(first, first + n)
    return to_device(torch.tensor(slots), device)
