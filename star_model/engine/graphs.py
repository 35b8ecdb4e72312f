"""The transformer as captured graphs: one launch instead of about a thousand for each scale of a batch.

Lengths are constants of the schedule and addresses are those of the cache, so a graph depends only on the images'
shape, the scale and the batch size. Sizes are rounded up to a few buckets, and the padding computes on a slot that no
sequence owns. The slots of a batch are an input like any other. A graph has no randomness: tokens are drawn from its
logits outside, by numbers that were drawn before the image began.

The graphs of the first shape, which requests get by default, are captured before the first of them. A model of many
shapes would take minutes to capture all, so those of the others are captured when a batch first needs them, up to
:data:`MOST_OF_OTHER_SHAPES`; what is left runs in eager mode.

Only one graph runs at a time, so all of them read their input from the same few tensors, write their result to the same
one, and share a memory pool for intermediate values. A result must therefore be read before the next graph runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from star_model.config import ModelConfig
from star_model.engine.forward import EagerForward
from star_model.errors import CaptureError
from star_model.transfer import to_device

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Callback that gets the number of graphs captured so far, and of all."""

MOST_OF_OTHER_SHAPES = 256
"""Graphs of all shapes but the first, together. Each is captured once, in the time of a few steps, and keeps a node for
each of about a thousand launches, which is some megabytes: so all together stay within a gigabyte or two. Fourteen
shapes of thirteen scales, an image at a time, need 182; the rest is for batches of the shapes that are asked for most.
"""
_WARM_UPS = 2
_TOLERANCE = 0.02
"""Relative to the largest logit: well above the difference between two choices of kernels in bfloat16, well below that
of a wrong result."""


class Capture(Protocol):
    """A recorder of work on tensors whose addresses do not change, so that it can be replayed."""

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record ``work``, which may run it; returns a function that replays it."""


class CudaCapture:
    """A :class:`Capture` of CUDA graphs, which share one memory pool and are replayed on one stream.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # Warmed up and captured on one stream, so that its handles and workspaces exist before the capture.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        # The first runs choose algorithms and load kernels, neither of which can be captured.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may call CUDA during the capture, for instance to read the memory in use.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            work()
        return graph.replay


def choose_capture(device: torch.device, wanted: bool) -> Capture | None:
    """The recorder of graphs for ``device``; None if they are not wanted or the device has none."""
    return CudaCapture(device) if wanted and device.type == "cuda" else None


def buckets(largest: int) -> tuple[int, ...]:
    """Batch sizes that get a graph: every one up to 4, then steps that waste at most a third.

    >>> buckets(20)
    (1, 2, 3, 4, 6, 8, 12, 16, 20)
    """
    sizes = [1, 2, 3]
    while sizes[-1] < largest:
        sizes.append(sizes[-2] * 2)  # 4, 6, 8, 12, 16, 24, ...
    return (*(size for size in sizes if size < largest), largest)


class GraphKey(NamedTuple):
    """What a graph was captured for.

    Attributes:
        shape: number of the images' shape.
        scale: index of the scale.
        size: images in the batch.
    """

    shape: int
    scale: int
    size: int

    def __str__(self) -> str:
        shape = f" of shape {self.shape}" if self.shape else ""
        return f"the graph of scale {self.scale} for {self.size} images{shape}"


class GraphedForward:
    """A :class:`star_model.engine.forward.Forward` that replays graphs.

    A batch without a graph runs in eager mode: one that is too large, that is guided where the graphs are not or the
    reverse, or of another shape than the first, once there are as many graphs of those as may be.

    Args:
        forward: the work to capture.
        capture: recorder of graphs.
        config: of the model.
        sizes: for each scale, the batch sizes that get a graph, ascending.
        padding_slot: a slot that no image owns, with a text in it.
        guided: for each scale, whether its graphs have guidance.
    """

    def __init__(
        self,
        forward: EagerForward,
        capture: Capture,
        config: ModelConfig,
        *,
        sizes: Sequence[Sequence[int]],
        padding_slot: int,
        guided: Sequence[bool],
    ) -> None:
        self._forward = forward
        self._capture = capture
        self._lengths = [schedule.lengths for schedule in config.schedules]
        self._width, self._vocab = config.transformer.width, config.token_logits
        self._sizes = sizes
        self._padding_slot = padding_slot
        self._guided = guided
        self._room = MOST_OF_OTHER_SHAPES
        self._broken = False
        self._graphs: dict[GraphKey, Callable[[], None]] = {}
        cache = forward.cache.image
        tokens, images = largest_step(self._lengths, sizes)
        self._x = torch.zeros(2 * tokens * self._width, device=cache.device, dtype=cache.dtype)
        self._logits = torch.zeros(tokens * self._vocab, device=cache.device, dtype=cache.dtype)
        self._slots = torch.full((images,), padding_slot, device=cache.device)
        self._strength = torch.zeros(images, device=cache.device)

    @property
    def captured(self) -> frozenset[GraphKey]:
        """What there are graphs for."""
        return frozenset(self._graphs)

    def capture_all(self, progress: Progress) -> None:
        """Capture a graph for each scale and size of the first shape, so that no request waits for one.

        Raises:
            CaptureError: one could not be captured, or its result differs from that of eager mode.
        """
        # The largest first: the others then fit into its memory.
        keys = sorted(
            (GraphKey(0, scale, size) for scale, sizes in enumerate(self._sizes) for size in sizes),
            key=lambda key: -self._lengths[0][key.scale] * key.size,
        )
        for done, key in enumerate(keys):
            progress(done, len(keys))
            self._add(key)
        progress(len(keys), len(keys))

    def __call__(
        self, scale: int, x: Tensor, slots: Sequence[int], strength: Tensor | None, shape: int = 0
    ) -> Tensor:
        """See :class:`star_model.engine.forward.Forward`."""
        n = len(slots)
        key = self.key_of(shape, scale, n, guided=strength is not None)
        if key is None or not self._is_there(key):
            return self._forward(scale, x, slots, strength, shape)
        own_x, own_slots, own_strength, logits = self._tensors(key)
        own_x[: len(x)].copy_(x)  # the rows behind it keep their old values: finite, and unused
        padded = torch.tensor([*slots, *[self._padding_slot] * (key.size - n)])
        own_slots.copy_(to_device(padded, x.device))
        if strength is not None and own_strength is not None:  # both or neither
            own_strength[:n].copy_(strength)
        self._graphs[key]()
        return logits[:n]

    def key_of(self, shape: int, scale: int, images: int, *, guided: bool) -> GraphKey | None:
        """The graph for a batch of ``images``; None if no such graph is ever captured."""
        size = next((size for size in self._sizes[scale] if size >= images), None)
        if size is None or guided != self._guided[scale]:
            return None
        return GraphKey(shape, scale, size)

    def _is_there(self, key: GraphKey) -> bool:
        """Whether there is a graph for ``key``, now that it is needed: captured before, or at this moment.

        After a failure, which on a GPU mostly means that its memory is full, none is captured any more.
        """
        if key in self._graphs:
            return True
        if self._broken or (key.shape and self._room <= 0):
            return False
        try:
            self._add(key)
        except CaptureError as error:
            _log.warning("%s; batches without a graph are slower", str(error).splitlines()[0])
            self._broken = True
            return False
        self._room -= key.shape > 0
        return True

    def _add(self, key: GraphKey) -> None:
        """Capture a graph and verify it.

        Raises:
            CaptureError: it could not be captured, or its result differs from that of eager mode.
        """
        try:
            graph = self._captured(key)
            self._verify(key, graph)
        except RuntimeError as error:  # raised by PyTorch, also when out of memory
            raise CaptureError(f"{key}: {error}") from error
        self._graphs[key] = graph

    def _tensors(self, key: GraphKey) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """A graph's input, slots, strength of guidance (None without) and logits, as views of the shared tensors."""
        length, guided = self._lengths[key.shape][key.scale], self._guided[key.scale]
        rows = (2 if guided else 1) * key.size
        x = self._x[: rows * length * self._width].view(rows, length, self._width)
        logits = self._logits[: key.size * length * self._vocab].view(key.size, length, self._vocab)
        return x, self._slots[: key.size], self._strength[: key.size] if guided else None, logits

    def _captured(self, key: GraphKey) -> Callable[[], None]:
        x, slots, strength, logits = self._tensors(key)

        def work() -> None:
            logits.copy_(self._forward(key.scale, x, slots, strength, key.shape))

        return self._capture(work)

    def _verify(self, key: GraphKey, graph: Callable[[], None]) -> None:
        """Replay a new graph once and compare with eager mode; all images of the batch are on the padding slot.

        Raises:
            RuntimeError: the two differ.
        """
        x, slots, strength, logits = self._tensors(key)
        # All images are the same, since they write to the same slot.
        x.copy_(torch.randn_like(x[: len(x) // key.size]).repeat(key.size, 1, 1))
        slots.fill_(self._padding_slot)
        if strength is not None:
            strength.fill_(1.0)
        expected = self._forward(key.scale, x, slots, strength, key.shape).float()
        logits.fill_(float("nan"))
        graph()
        error = ((logits.float() - expected).abs().max() / expected.abs().max()).item()
        if not error <= _TOLERANCE:  # also true for NaN, which a graph that computes nothing leaves
            raise RuntimeError(f"its result is off by {error:.3g} of the largest logit")


def largest_step(
    lengths: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]]
) -> tuple[int, int]:
    """Most tokens, counting a guidance pair once, and most images in any graph.

    Args:
        lengths: for each shape, the tokens of each scale.
        sizes: for each scale, the batch sizes, ascending.
    """
    largest = [of_scale[-1] for of_scale in sizes]
    tokens = (
        length * size
        for of_shape in lengths
        for length, size in zip(of_shape, largest, strict=True)
    )
    return max(tokens), max(largest)
