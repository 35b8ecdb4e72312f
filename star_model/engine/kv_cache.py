"""A static key/value cache, divided into slots: one for each image in flight.

A slot holds the keys and values of one image, for both rows of its guidance pair, those of its text, and the modulation
by its class or its text. All slots are allocated once; a sequence takes one when it is prepared and returns it when it
ends. The last scale's keys and values are never read again, so slots leave them out; so are those of all scales if each
attends to itself alone. A slot has room for the shape of images with the most tokens; others use its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from star_model.config import ModelConfig
from star_model.errors import OutOfSlotsError
from star_model.networks.attention import additive_bias
from star_model.transfer import to_device


class KVCache:
    """``slots`` preallocated slots on ``device``.

    Shapes: image keys and values ``[layer, k or v, slot, guidance row, token, head, D]``; text likewise, with
    the rows that the model needs (one when the prompt's cross-attention serves both); modulation
    ``[slot, guidance row, vector, width]``. Parts that a model does not have get a size of 0.
    """

    def __init__(
        self, config: ModelConfig, *, slots: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        t = config.transformer
        self.schedules = config.schedules
        heads = (t.num_heads, t.head_dim)
        self.own_scale = t.self_attention == "own_scale"
        image = (t.depth, 2, slots, 2, config.cached_tokens, *heads)
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
        """Return ``slot`` to the free ones.

        Raises:
            ValueError: when it is free already.
        """
        if slot in self._free:
            raise ValueError(f"slot {slot} is already free")
        self._free.append(slot)

    def write_text(self, slot: int, row: int, keys_values: Tensor, mask: Tensor) -> None:
        """Store a text's keys and values (layers, 2, T, H, D) and its mask (T,) as a guidance row of ``slot``.

        Positions after ``T`` are masked; their values are zeros, since a weight of zero needs a finite value.
        """
        length = len(mask)
        self.text[:, :, slot, row, :length] = keys_values
        self.text[:, :, slot, row, length:] = 0
        self.text_mask[slot, row, :length] = mask
        self.text_mask[slot, row, length:] = False

    def write_modulation(self, slot: int, modulation: Tensor) -> None:
        """Store the modulation by the classes or texts of a guidance pair, (2, 6 * layers + 2, C), in ``slot``."""
        self.modulation[slot] = modulation

    def keep_unconditional(self, slot: int) -> None:
        """Let the unconditional row of ``slot`` take the place of the conditional one, for scales without guidance.

        Copied once an image, so that a step without guidance reads the first row of every slot, whichever it is. Its
        text is written by the caller: a slot may have that of the conditional row alone.
        """
        self.image[:, :, slot, 0] = self.image[:, :, slot, 1]
        self.modulation[slot, 0] = self.modulation[slot, 1]

    def view(
        self, slots: Sequence[int] | Tensor, scale: int, *, rows: int = 2, shape: int = 0
    ) -> SlotView:
        """The keys and values of one step over ``slots`` at ``scale``, for the first ``rows`` of each guidance pair.

        All images have ``shape``.
        """
        return SlotView(self, slots, scale, rows, shape)


class SlotView:
    """The :class:`~star_model.networks.attention.KeyValues` of a step.

    With both guidance rows, rows ``2 i`` and ``2 i + 1`` of the batch are the pair in ``slots[i]``. Adjacent ascending
    slots are read in place; others, and slots given as a tensor, are gathered into a copy.
    """

    def __init__(
        self, cache: KVCache, slots: Sequence[int] | Tensor, scale: int, rows: int, shape: int
    ) -> None:
        self._cache = cache
        self._slots = _index(slots, cache.image.device)
        self._rows = rows
        schedule = cache.schedules[shape]
        offsets = schedule.offsets
        self._start, self._end = offsets[scale], offsets[scale + 1]
        self._is_last = scale == len(schedule) - 1

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self._cache.own_scale:
            return k, v
        image, slots, rows = self._cache.image[layer], self._slots, self._rows
        start, end = self._start, self._end
        if self._is_last:  # read once, here; never stored
            keys, values = (image[i, slots, :rows, :start].flatten(0, 1) for i in (0, 1))
            return torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        image[0, slots, :rows, start:end] = torch.unflatten(k, 0, (-1, rows))
        image[1, slots, :rows, start:end] = torch.unflatten(v, 0, (-1, rows))
        keys, values = (image[i, slots, :rows, :end].flatten(0, 1) for i in (0, 1))
        return keys, values

    def text(self, layer: int) -> tuple[Tensor, Tensor]:
        text = self._cache.text[layer]
        keys, values = (text[i, self._slots, : self._rows].flatten(0, 1) for i in (0, 1))
        return keys, values

    @cached_property
    def text_mask(self) -> Tensor:
        mask = self._cache.text_mask[self._slots, : self._rows].flatten(0, 1)[:, None, None, :]
        return additive_bias(mask, self._cache.text.dtype)

    @cached_property
    def modulation(self) -> Tensor | None:
        """Modulation of the layers, (B, 6 * layers + 2, C); None for a model without."""
        modulation = self._cache.modulation
        return modulation[self._slots, : self._rows].flatten(0, 1) if modulation.shape[2] else None


def _index(slots: Sequence[int] | Tensor, device: torch.device) -> slice | Tensor:
    """An index into the slot dimension: a slice if the slots are adjacent and ascending."""
    if isinstance(slots, Tensor):
        return slots
    first, n = slots[0], len(slots)
    if list(slots) == list(range(first, first + n)):
        return slice(first, first + n)
    return to_device(torch.tensor(slots), device)
