"""Asynchronous copies between host and device."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy ``tensor`` to ``device``, in ``dtype`` if given, without waiting; returns itself if it is there already.

    From the host to a GPU it goes through pinned memory, which PyTorch keeps until the copy is done. From pageable
    memory, or when a tensor is made on the GPU from a list, PyTorch would first wait for all work queued on the GPU.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, dtype, non_blocking=True)


class ToHost:
    """An asynchronous copy of a result to the host, while the device continues with other work.

    Args:
        result: a tensor that nobody writes to any more; it is kept alive until the copy is done.
    """

    def __init__(self, result: Tensor) -> None:
        self._result: Tensor | None = result
        self._host, self._copied = result, None
        if result.device.type == "cuda":
            self._host, self._copied = self._start(result)

    @staticmethod
    def _start(result: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """Start the copy on a stream of its own, so that later work on the device does not wait for it."""
        host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        stream = torch.cuda.Stream(result.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(result.device))
        with torch.cuda.stream(stream):
            host.copy_(result, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        return host, copied

    @property
    def done(self) -> bool:
        """True if :meth:`wait` returns at once."""
        return self._copied is None or bool(self._copied.query())  # type: ignore[no-untyped-call]

    def wait(self) -> Tensor:
        """Wait for the copy; returns the result on the host."""
        if self._copied is not None:
            self._copied.synchronize()
        self._result = None
        return self._host
