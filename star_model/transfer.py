"""Copies between the host and the device that wait for nothing: neither for what the device does, nor it for them."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """``tensor`` on ``device``, in ``dtype`` if given; itself if it is there already.

    From the host to a GPU it goes through pinned memory, which PyTorch keeps until the copy is done: from other
    memory, or made there from a list, it would first wait for all that the GPU has been given to do.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, dtype, non_blocking=True)


class ToHost:
    """The way of a result to the host, while the device goes on with other work.

    Args:
        result: a tensor that nobody writes to any more; it is kept until the copy is done.
    """

    def __init__(self, result: Tensor) -> None:
        self._result: Tensor | None = result
        self._host, self._copied = result, None
        if result.device.type == "cuda":
            self._host, self._copied = self._start(result)

    @staticmethod
    def _start(result: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """Copy on a stream of its own, so that what follows on the device does not wait for the copy."""
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
        """Whether :meth:`wait` returns at once."""
        return self._copied is None or bool(self._copied.query())  # type: ignore[no-untyped-call]

    def wait(self) -> Tensor:
        """The result on the host."""
        if self._copied is not None:
            self._copied.synchronize()
        self._result = None
        return self._host
