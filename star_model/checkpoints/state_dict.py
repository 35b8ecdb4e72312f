"""Reading the tensors of a published file, whatever its format: a pickle of PyTorch or safetensors."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from star_model.checkpoints.pth import read_pth
from star_model.errors import CheckpointError


def read_state_dict(file: Path, *, allow_unsafe_pickle: bool = False) -> dict[str, Tensor]:
    """Read the tensors of ``file``, a ``.safetensors`` or else a ``.pth``, through a memory map where it can be.

    Raises:
        CheckpointError: when the file is missing, damaged, or holds something else.
        UnsafeCheckpointError: when a ``.pth`` needs more than tensors and plain containers.
    """
    if file.suffix != ".safetensors":
        return read_pth(file, allow_unsafe_pickle=allow_unsafe_pickle)
    if not file.is_file():
        raise CheckpointError(f"{file} is missing")
    try:
        state: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged or incomplete; fetch it again: {error}"
        ) from error
    if not state:
        raise CheckpointError(f"{file} does not hold a state dict")
    return state
