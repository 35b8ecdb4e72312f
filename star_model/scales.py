"""The scale schedule: the number of tokens that each step predicts, and their positions in the sequence.

Integers only, no torch, so that a scheduler or a capacity plan can reason about a model without loading one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class ScaleSchedule:
    """The token maps of one image, from coarse to fine (VAR, section 3.2).

    Scale ``k`` is a map of ``lengths[k]`` tokens, row by row. The maps are predicted one after the other, so scale
    ``k`` occupies positions ``offsets[k]`` to ``offsets[k + 1]`` of the sequence. Neighbouring scales may have the same
    size: each encodes the residual of those before it.

    Args:
        patch_nums: size of each token map: its side, or its height and width if they differ. Neither ever decreases,
            and the first is the 1x1 start map.

    Raises:
        ValueError: if there are fewer than two scales, the first is not 1, or a side is smaller than the one before.
    """

    patch_nums: tuple[int | Size, ...]

    def __post_init__(self) -> None:
        sizes = [(p, p) if isinstance(p, int) else p for p in self.patch_nums]
        one_form = tuple(height if height == width else (height, width) for height, width in sizes)
        object.__setattr__(self, "patch_nums", one_form)
        if len(sizes) < 2:
            raise ValueError(f"patch_nums needs at least two scales, got {self.patch_nums}")
        if sizes[0] != (1, 1):
            raise ValueError(
                f"patch_nums must start with 1 (the start token map), got {self.patch_nums}"
            )
        for (height, width), (later_height, later_width) in pairwise(sizes):
            if height > later_height or width > later_width:
                raise ValueError(f"patch_nums must not decrease, got {self.patch_nums}")

    def __len__(self) -> int:
        return len(self.patch_nums)

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """Height and width of each token map."""
        return tuple((p, p) if isinstance(p, int) else p for p in self.patch_nums)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each scale."""
        return tuple(height * width for height, width in self.sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """``len(self) + 1`` positions: the start of each scale, then the end of the last."""
        return (0, *accumulate(self.lengths))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """A name for each scale, its width and height: ``16x16``; later ones of a size are ``16x16 #2`` and so on."""
        seen: Counter[Size] = Counter()
        labels = []
        for size in self.sizes:
            seen[size] += 1
            height, width = size
            labels.append(f"{width}x{height}" + (f" #{seen[size]}" if seen[size] > 1 else ""))
        return tuple(labels)

    @property
    def num_tokens(self) -> int:
        """Tokens of a whole image."""
        return self.offsets[-1]

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values a later scale reads: all but those of the last scale."""
        return self.offsets[-2]

    @property
    def last_size(self) -> Size:
        """Height and width of the last token map."""
        return self.sizes[-1]

    def progress(self, scale: int) -> float:
        """Position of ``scale`` between the first (0.0) and the last (1.0), linearly; guidance and phi follow it."""
        return scale / (len(self) - 1)

    def phi_index(self, scale: int, num_phi: int) -> int:
        """Index of the phi convolution, of ``num_phi`` that scales share, which refines ``scale``.

        It is the one with the nearest tick. The four ticks of the published tokenizer lie closer to the ends than those
        of any other number. With ten scales, two lie exactly between two ticks, so the order of operations matters: it
        is that of ``numpy.linspace``, as in the published code.
        """
        start = 1 / 3 / num_phi if num_phi == 4 else 1 / 2 / num_phi
        stop = 1 - start
        step = (stop - start) / (num_phi - 1) if num_phi > 1 else 0.0
        ticks = [i * step + start for i in range(num_phi)]
        if num_phi > 1:
            ticks[-1] = stop
        at = self.progress(scale)
        return min(range(num_phi), key=lambda i: abs(ticks[i] - at))
