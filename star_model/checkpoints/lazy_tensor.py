"""Tensors that are read when they are needed, and the safetensors files that are written from them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in SAFETENSORS_TYPES.items()}


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """A tensor whose type and shape are known before its values are read.

    Attributes:
        dtype, shape: of what ``read`` returns.
        read: returns the tensor; nothing of it is kept, so that reading it again reads the file again.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> LazyTensor:
        """Wrap a tensor that is in memory."""
        return cls(tensor.dtype, tuple(tensor.shape), lambda: tensor)

    @property
    def nbytes(self) -> int:
        """Size in bytes, without gaps."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Span:
    """Some bytes of a file.

    Attributes:
        file: its path.
        start, size: in bytes; the span is within the file.
    """

    file: Path
    start: int
    size: int

    def read(self, start: int = 0, size: int | None = None) -> Tensor:
        """Read ``size`` bytes from ``start`` on, by default all, as uint8 (size,).

        They are copied rather than mapped: so the process holds one tensor and not the whole file, and a file that is
        cut short meanwhile is an error and not the end of the process.

        Raises:
            EOFError: when the file has become shorter.
        """
        values = torch.empty(self.size - start if size is None else size, dtype=torch.uint8)
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.start + start)
            left = values.numpy().data
            while left:
                if not (count := stream.readinto(left)):
                    raise EOFError(f"{self.file} has become shorter while it was read")
                left = left[count:]
        return values


def write_safetensors(file: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Write a safetensors file, one tensor after the other, so that no more than one of them need be in memory.

    Raises:
        OSError: when it cannot be written.
        KeyError: for a type that the format, or this module, does not have.
    """
    # Larger elements first: so each tensor starts at a multiple of its element's size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, object] = {}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in ordered:
            values = tensor.read()
            if (values.dtype, tuple(values.shape)) != (tensor.dtype, tensor.shape):
                raise AssertionError(f"{name} is not of the type and shape that were announced")
            stream.write(values.contiguous().flatten().view(torch.uint8).numpy().data)
