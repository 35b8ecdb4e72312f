"""Reading ``.pth`` files, which are pickles: only tensors and plain containers, unless the user trusts the file."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from star_model.errors import CheckpointError, UnsafeCheckpointError


def read_pth(file: Path, *, allow_unsafe_pickle: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a published ``.pth``, unwrapping ``trainer`` and ``var_wo_ddp`` if present.

    Raises:
        CheckpointError: when the file is missing, damaged, or holds something else.
        UnsafeCheckpointError: when it needs more than tensors and plain containers.
    """
    state: Any = _unpickle(file, allow_unsafe_pickle)
    for wrapper in ("trainer", "var_wo_ddp"):
        if isinstance(state, dict) and wrapper in state:
            state = state[wrapper]
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{file} does not hold a state dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{file} does not hold a state dict: {name!r} is not a tensor")
    return state


def _unpickle(file: Path, allow_unsafe_pickle: bool) -> Any:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing")
    damaged = f"{file} is damaged or incomplete; fetch it again"
    is_zip = zipfile.is_zipfile(file)
    if not is_zip and _starts_with(file, b"PK"):  # the directory of a zip file is at its end
        raise CheckpointError(f"{damaged} (its end is missing)")
    if is_zip:
        _check_records(file, damaged)
    try:
        return torch.load(
            file, map_location="cpu", mmap=is_zip, weights_only=not allow_unsafe_pickle
        )
    except pickle.UnpicklingError as error:
        if not allow_unsafe_pickle and re.search(
            r"GLOBAL|safe_globals|must be imported", str(error)
        ):
            raise UnsafeCheckpointError(
                f"{file} holds more than tensors, and loading it could run code that is hidden in it. If you "
                "trust its source, allow it: allow_unsafe_pickle=True, on the command line --allow-unsafe-pickle"
            ) from error
        raise CheckpointError(damaged) from error
    except Exception as error:  # a damaged pickle can raise anything
        # PyTorch's own text may advise to load the file unsafely.
        detail = "" if "weights_only" in str(error) else f": {_first_line(error)}"
        raise CheckpointError(damaged + detail) from error


def _starts_with(file: Path, magic: bytes) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _check_records(file: Path, damaged: str) -> None:
    """Check the checksums of a zip file, since PyTorch does not."""
    try:
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise CheckpointError(f"{damaged}: {_first_line(error)}") from error
    if bad is not None:
        raise CheckpointError(f"{damaged}: the checksum of {bad} is wrong")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
