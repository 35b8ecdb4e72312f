"""Reading the tensors of a published file, whatever its format: a pickle of PyTorch, safetensors, or shards of it."""

from __future__ import annotations

from pathlib import Path

from star_model.checkpoints.lazy_tensor import LazyTensor
from star_model.checkpoints.pth import read_pth
from star_model.checkpoints.safetensors_file import (
    INDEX,
    find_index,
    read_safetensors,
    read_shards,
)
from star_model.errors import CheckpointError


def read_state_dict(file: Path, *, allow_unsafe_pickle: bool = False) -> dict[str, LazyTensor]:
    """Read names, types and shapes of the tensors of ``file``, whose values are read when they are needed.

    Args:
        file: a ``.safetensors``, the index of several, a folder with either, or else a ``.pth``.
        allow_unsafe_pickle: see :func:`star_model.checkpoints.pth.read_pth`.

    Raises:
        CheckpointError: when the file is missing, damaged, or holds something else.
        UnsafeCheckpointError: when a ``.pth`` can be read only by running what is in it.
    """
    if file.is_dir():
        file = find_index(file)
    if file.name.endswith(INDEX):
        state = read_shards(file)
    elif file.suffix == ".safetensors":
        state = read_safetensors(file)
    else:
        return read_pth(file, allow_unsafe_pickle=allow_unsafe_pickle)
    if not state:
        raise CheckpointError(f"{file} does not hold a state dict")
    return state
