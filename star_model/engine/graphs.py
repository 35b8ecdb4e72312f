"""The transformer as captured graphs: one launch in place of some thousand for each scale of a batch.

Lengths are constants of the schedule and addresses are those of the cache, so a graph depends on the scale and
the size of the batch alone. Sizes are rounded up to a few buckets; what is missing is filled with work on a slot
that nobody owns. Which slots a batch is in, is an input like any other. There is no randomness in a graph: tokens
are drawn from its logits, by numbers that were drawn before the image began.

All graphs read their input from the same few tensors and leave their result in the same one, for only one runs at
a time; they share a pool of memory for what lies between. That is why nothing of a result may be read after the
next graph has run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from star_model.config import ModelConfig
from star_model.engine.forward import EagerForward
from star_model.errors import CaptureError
from star_model.transfer import to_device

Progress = Callable[[int, int], None]
"""Told how many graphs are captured, and of how many."""

_WARM_UPS = 2
_TOLERANCE = 0.02
"""Of the largest logit: far more than kernels chosen otherwise differ by in bfloat16, far less than a wrong result."""


class Capture(Protocol):
    """Records work whose tensors stay where they are, to be run again and again."""

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record ``work``, which may run meanwhile; returns what runs it again."""


class CudaCapture:
    """CUDA graphs, which share one pool of memory and are replayed on one stream.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # Warmed up and captured on one stream, whose handles and workspaces are then there when it counts.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        # The first runs choose algorithms and load kernels, neither of which can be captured.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # What other threads do, such as to ask how much memory is in use, does not concern the capture.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            work()
        return graph.replay


def choose_capture(device: torch.device, wanted: bool) -> Capture | None:
    """How graphs are captured on ``device``; None where they are not wanted or there is no such thing."""
    return CudaCapture(device) if wanted and device.type == "cuda" else None


def buckets(largest: int) -> tuple[int, ...]:
    """The sizes of batch that get a graph: every one up to 4, then steps that waste at most a third.

    >>> buckets(20)
    (1, 2, 3, 4, 6, 8, 12, 16, 20)
    """
    sizes = [1, 2, 3]
    while sizes[-1] < largest:
        sizes.append(sizes[-2] * 2)  # 4, 6, 8, 12, 16, 24, ...
    return (*(size for size in sizes if size < largest), largest)


class GraphedForward:
    """A :class:`star_model.engine.forward.Forward` that replays graphs; a batch that has none, for its size or
    since it is guided where graphs are not, or the other way round, is run as it comes.

    Args:
        forward: what is captured.
        capture: how.
        config: of the model.
        sizes: for each scale, those of the batches that get a graph, ascending.
        padding_slot: a slot that no image owns, whose text is set.
        unguided_scales: last scales that run without guidance.
    """

    def __init__(
        self,
        forward: EagerForward,
        capture: Capture,
        config: ModelConfig,
        *,
        sizes: Sequence[Sequence[int]],
        padding_slot: int,
        unguided_scales: int = 0,
    ) -> None:
        self._forward = forward
        self._capture = capture
        self._lengths = config.schedule.lengths
        self._width, self._vocab = config.transformer.width, config.tokenizer.vocab_size
        self._sizes = sizes
        self._padding_slot = padding_slot
        self._guided_scales = len(self._lengths) - unguided_scales
        self._graphs: dict[tuple[int, int], Callable[[], None]] = {}
        cache = forward.cache.image
        tokens, images = largest_step(self._lengths, sizes)
        self._x = torch.zeros(2 * tokens * self._width, device=cache.device, dtype=cache.dtype)
        self._logits = torch.zeros(tokens * self._vocab, device=cache.device, dtype=cache.dtype)
        self._slots = torch.full((images,), padding_slot, device=cache.device)
        self._strength = torch.zeros(images, device=cache.device)

    def capture_all(self, progress: Progress) -> None:
        """Capture a graph for each scale and size, so that no request waits for one, and try each.

        Raises:
            CaptureError: one could not be captured, or does not compute what is computed without.
        """
        # The largest first: the others then fit into its memory.
        keys = sorted(
            ((scale, size) for scale, sizes in enumerate(self._sizes) for size in sizes),
            key=lambda key: -self._lengths[key[0]] * key[1],
        )
        for done, key in enumerate(keys):
            progress(done, len(keys))
            try:
                self._graphs[key] = self._captured(*key)
                self._verify(*key)
            except RuntimeError as error:  # PyTorch's own, of which running out of memory is one
                raise CaptureError(
                    f"the graph of scale {key[0]} for {key[1]} images: {error}"
                ) from error
        progress(len(keys), len(keys))

    def __call__(
        self, scale: int, x: Tensor, slots: Sequence[int], strength: Tensor | None
    ) -> Tensor:
        """See :class:`star_model.engine.forward.Forward`."""
        n = len(slots)
        size = next((size for size in self._sizes[scale] if size >= n), None)
        if size is None or (strength is not None) != (scale < self._guided_scales):
            return self._forward(scale, x, slots, strength)
        if (scale, size) not in self._graphs:
            self._graphs[scale, size] = self._captured(scale, size)
        own_x, own_slots, own_strength, logits = self._tensors(scale, size)
        own_x[: len(x)].copy_(x)  # what is behind it stays as it was: finite, and of no matter
        padded = torch.tensor([*slots, *[self._padding_slot] * (size - n)])
        own_slots.copy_(to_device(padded, x.device))
        if strength is not None and own_strength is not None:  # both or neither
            own_strength[:n].copy_(strength)
        self._graphs[scale, size]()
        return logits[:n]

    def _tensors(self, scale: int, size: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """A graph's input, slots, strength of guidance, if there is any, and logits, where they always are."""
        length, guided = self._lengths[scale], scale < self._guided_scales
        rows = (2 if guided else 1) * size
        x = self._x[: rows * length * self._width].view(rows, length, self._width)
        logits = self._logits[: size * length * self._vocab].view(size, length, self._vocab)
        return x, self._slots[:size], self._strength[:size] if guided else None, logits

    def _captured(self, scale: int, size: int) -> Callable[[], None]:
        x, slots, strength, logits = self._tensors(scale, size)

        def work() -> None:
            logits.copy_(self._forward(scale, x, slots, strength))

        return self._capture(work)

    def _verify(self, scale: int, size: int) -> None:
        """Replay a new graph once, and compare; on the slot of nobody, which all images of the batch then share."""
        x, slots, strength, logits = self._tensors(scale, size)
        x.copy_(
            torch.randn_like(x[: len(x) // size]).repeat(size, 1, 1)
        )  # alike, for they write to one place
        slots.fill_(self._padding_slot)
        if strength is not None:
            strength.fill_(1.0)
        expected = self._forward(scale, x, slots, strength).float()
        logits.fill_(float("nan"))
        self._graphs[scale, size]()
        error = ((logits.float() - expected).abs().max() / expected.abs().max()).item()
        if not error <= _TOLERANCE:  # nor is it a number, if the graph computes nothing
            raise CaptureError(
                f"the graph of scale {scale} for {size} images is off by {error:.3g} of the largest logit"
            )


def largest_step(lengths: Sequence[int], sizes: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Most tokens, a guidance pair counted once, and most images in any graph."""
    largest = [of_scale[-1] for of_scale in sizes]
    return max(length * size for length, size in zip(lengths, largest, strict=True)), max(largest)
