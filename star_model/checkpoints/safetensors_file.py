"""Reading the tensors of safetensors files one by one: a single file, or shards and their index."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open
from torch import Tensor

from star_model.checkpoints.lazy_tensor import SAFETENSORS_TYPES, LazyTensor, Span
from star_model.errors import CheckpointError
from star_model.json_file import read_object

INDEX = ".safetensors.index.json"
"""End of the name of an index."""


class _Index(BaseModel):
    """The index of shards: the name of each tensor -> that of the file, beside the index, that has it."""

    model_config = ConfigDict(strict=True)

    weight_map: dict[str, str]


def read_safetensors(file: Path) -> dict[str, LazyTensor]:
    """Read the tensors of one file.

    Raises:
        CheckpointError: when it is missing or damaged, or has a tensor of a type that no weights have.
    """
    if not file.is_file():
        raise CheckpointError(f"{file} is missing")
    try:
        with safe_open(file, framework="pt"):
            pass  # the library checks the header: that every tensor has its bytes, and no byte has two
        return {name: _lazy(file, name, *entry) for name, entry in _entries(file).items()}
    except (SafetensorError, OSError, EOFError) as error:
        raise CheckpointError(
            f"{file} is damaged or incomplete; fetch it again: {error}"
        ) from error


def _entries(file: Path) -> dict[str, tuple[str, tuple[int, ...], Span]]:
    """Type, shape and place of each tensor, from a header that is valid."""
    start = 8 + int.from_bytes(bytes(Span(file, 0, 8).read().numpy()), "little")
    header: Mapping[str, Any] = from_json(bytes(Span(file, 8, start - 8).read().numpy()))
    return {
        name: (
            entry["dtype"],
            tuple(entry["shape"]),
            Span(
                file,
                start + entry["data_offsets"][0],
                entry["data_offsets"][1] - entry["data_offsets"][0],
            ),
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _lazy(file: Path, name: str, kind: str, shape: tuple[int, ...], span: Span) -> LazyTensor:
    if kind not in SAFETENSORS_TYPES:
        raise CheckpointError(
            f"{file}: tensor {name} has type {kind}; known are {', '.join(SAFETENSORS_TYPES)}"
        )
    dtype = SAFETENSORS_TYPES[kind]
    return LazyTensor(dtype, shape, partial(_read, span, dtype, shape))


def _read(span: Span, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    try:
        return span.read().view(dtype).reshape(shape)
    except (OSError, EOFError) as error:
        raise CheckpointError(f"{span.file} cannot be read: {error}") from error


def find_index(folder: Path) -> Path:
    """The index, or the only file of weights, in a folder.

    Raises:
        CheckpointError: when there is none, or more than one.
    """
    for ending in (INDEX, ".safetensors"):
        found = sorted(folder.glob(f"*{ending}"))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f.name for f in found[:3])
            raise CheckpointError(
                f"{folder} has several {ending} files ({names}); name one of them"
            )
    raise CheckpointError(f"{folder} has no .safetensors file in it")


def read_shards(index: Path) -> dict[str, LazyTensor]:
    """Read the tensors of all shards that an index names.

    Raises:
        CheckpointError: when the index or a shard is missing or damaged, when a shard has a tensor that the index gives
            to another one or to none, or lacks one, or when the index names a file elsewhere.
    """
    if not index.is_file():
        raise CheckpointError(f"{index} is missing")
    placed = read_object(index, _Index).weight_map
    shards = sorted(set(placed.values()))
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: weight_map must name .safetensors files beside it, got {shard[:100]!r}"
            )
    found = {shard: read_safetensors(index.with_name(shard)) for shard in shards}
    for name, shard in placed.items():
        if name not in found[shard]:
            raise CheckpointError(
                f"{index.with_name(shard)} lacks the tensor {name}, which the index gives to it"
            )
    for shard, tensors in found.items():
        if extra := [name for name in tensors if placed.get(name) != shard]:
            raise CheckpointError(
                f"{index.with_name(shard)} has the tensor {extra[0]}, which the index does not give to it"
            )
    return {name: found[shard][name] for name, shard in placed.items()}
