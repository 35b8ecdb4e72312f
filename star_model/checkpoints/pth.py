"""Reading ``.pth`` files of PyTorch without running code from them, tensor by tensor.

A ``.pth`` is a pickle, and the storages of its tensors: in a zip file, or one after the other in a single file, the
format before 2020. The pickle is read by a machine that runs no code (:mod:`star_model.checkpoints.pickle_machine`);
tensors are rebuilt here, as places in the file. So objects of any class may stand beside the weights, and only the
tensors that somebody reads are read.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from star_model.checkpoints.lazy_tensor import LazyTensor, Span
from star_model.checkpoints.pickle_machine import (
    LARGEST_PICKLE,
    Builders,
    Global,
    PickleError,
    Placeholder,
    unpickle,
)
from star_model.checkpoints.zip_records import ZipRecords, damaged
from star_model.errors import CheckpointError, UnsafeCheckpointError

WRAPPERS = ("trainer", "var_wo_ddp", "vae")
"""Keys under which a training's checkpoint has the weights."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
MOST_DIMENSIONS = 8

_STORAGES = {
    Global("torch", f"{name}Storage"): dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}


@dataclass(frozen=True)
class _Storage:
    """The values that one or more tensors are views of: ``size`` elements under the name ``key``."""

    key: str
    dtype: torch.dtype
    size: int

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class _View:
    """A tensor in a pickle: where it begins in its storage, and by how many elements it steps."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def extent(self) -> int:
        """Elements from its first to its last, in the order of the storage."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))

    def of(self, values: Tensor) -> Tensor:
        """The tensor, from its ``extent`` of the storage as bytes."""
        typed = values.view(self.storage.dtype)
        return (
            typed.new_empty(self.shape)
            if 0 in self.shape
            else typed.as_strided(self.shape, self.stride)
        )


def read_pth(file: Path, *, allow_unsafe_pickle: bool = False) -> dict[str, LazyTensor]:
    """Read the tensors of a published ``.pth``, unwrapping ``trainer``, ``var_wo_ddp`` and ``vae``.

    Args:
        file: in either format.
        allow_unsafe_pickle: if a tensor is of a kind that is not rebuilt here, let PyTorch read all of the file, which
            runs whatever code is in it.

    Raises:
        CheckpointError: when the file is missing, damaged, or holds something else.
        UnsafeCheckpointError: when a tensor, or what holds it, can be had in no other way.
    """
    if not file.is_file():
        raise CheckpointError(f"{file} is missing")
    try:
        content, records = _open(file)
        state = _state_dict(file, content)
    except UnsafeCheckpointError:
        if not allow_unsafe_pickle:
            raise
        return _read_unsafely(file)
    return {name: _lazy(view, records) for name, view in state.items()}


def _read_unsafely(file: Path) -> dict[str, LazyTensor]:
    try:
        content = torch.load(
            file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=False
        )
    except Exception as error:  # a pickle can raise anything
        raise damaged(file, error) from error
    state = _unwrap(content)
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{file} does not hold a state dict")
    return {str(name): LazyTensor.of(tensor) for name, tensor in state.items()}


class _Records:
    """Where the storages of a file are; those of a zip file have checksums."""

    def __init__(self, file: Path, archive: ZipRecords | None, spans: Mapping[str, Span]) -> None:
        self.file, self.archive, self.spans = file, archive, spans

    def span(self, storage: _Storage) -> Span:
        """The bytes of a storage.

        Raises:
            CheckpointError: when it is not there, or has another size.
        """
        record = f"data/{storage.key}"
        span = self.archive.span(record) if self.archive else self.spans.get(storage.key)
        if span is None or span.size < storage.nbytes:
            raise damaged(self.file, f"the values under {record[:50]} are not all there")
        return span

    def read(self, view: _View) -> Tensor:
        span, size = self.span(view.storage), view.storage.dtype.itemsize
        try:
            if self.archive:
                self.archive.verify(f"data/{view.storage.key}")
            return view.of(span.read(view.offset * size, view.extent * size))
        except (OSError, EOFError) as error:
            raise damaged(self.file, error) from error


def _lazy(view: _View, records: _Records) -> LazyTensor:
    records.span(view.storage)
    return LazyTensor(view.storage.dtype, view.shape, partial(records.read, view))


# ---- what is in the file -----------------------------------------------------------------------------------


def _open(file: Path) -> tuple[Any, _Records]:
    """The content of the pickle, with views in the place of tensors, and where their values are."""
    try:
        with file.open("rb") as stream:
            is_zip = stream.read(2) == b"PK"
            stream.seek(0)
            if not is_zip:
                return _open_legacy(file, stream)
        if not zipfile.is_zipfile(file):  # its directory is at its end
            raise damaged(file, "its end is missing")
        return _open_zip(file)
    except (PickleError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise damaged(file, error) from error


def _open_zip(file: Path) -> tuple[Any, _Records]:
    archive = ZipRecords(file)
    span = archive.span("data.pkl")
    if span.size > LARGEST_PICKLE:
        raise damaged(file, f"its pickle is larger than {LARGEST_PICKLE} bytes")
    archive.verify("data.pkl")
    if "byteorder" in archive and bytes(archive.span("byteorder").read(0, 3).numpy()) == b"big":
        raise CheckpointError(f"{file} was written on a big-endian machine, which is not read")
    content = unpickle(io.BytesIO(span.read().numpy().data), BUILDERS, _storage)
    return content, _Records(file, archive, {})


def _open_legacy(file: Path, stream: BinaryIO) -> tuple[Any, _Records]:
    storages: dict[str, _Storage] = {}

    def persistent(name: Any) -> Any:
        if isinstance(name, tuple) and name[:1] == ("module",):  # with its source, beside the class
            return name[1] if len(name) > 1 else None
        storage = _storage(name)
        if isinstance(storage, Placeholder):
            raise PickleError(f"it has values of the type {storage.kind}, whose size is unknown")
        return storages.setdefault(storage.key, storage)

    try:
        begins = [unpickle(stream, {}), unpickle(stream, {})]
    except PickleError as error:
        raise PickleError("it is not a PyTorch checkpoint") from error
    if begins != [LEGACY_MAGIC, LEGACY_VERSION]:
        raise PickleError("it is not a PyTorch checkpoint")
    machine = unpickle(stream, {})
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise CheckpointError(f"{file} was written on a big-endian machine, which is not read")
    content = unpickle(stream, BUILDERS, persistent)
    keys = unpickle(stream, {})
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise PickleError("the list of its storages is none")
    return content, _Records(file, None, _legacy_spans(file, stream, keys, storages))


def _legacy_spans(
    file: Path, stream: BinaryIO, keys: list[str], storages: Mapping[str, _Storage]
) -> dict[str, Span]:
    """Where the storages are: one after the other in the order of ``keys``, each after its number of elements."""
    spans, end = {}, file.stat().st_size
    start = stream.tell()
    for key in keys:
        if key not in storages:
            raise PickleError("a storage is not that of any tensor")
        stream.seek(start)
        size = storages[key].nbytes
        if int.from_bytes(stream.read(8), "little") * storages[key].dtype.itemsize != size:
            raise PickleError("a storage has another size than its tensors say")
        if start + 8 + size > end:
            raise PickleError("its end is missing")
        spans[key] = Span(file, start + 8, size)
        start += 8 + size
    return spans


def _unwrap(content: Any) -> Any:
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and wrapper in content:
            content = content[wrapper]
    return content


def _state_dict(file: Path, content: Any) -> dict[str, _View]:
    """The weights in what a pickle holds.

    Raises:
        CheckpointError: when there are none.
        UnsafeCheckpointError: when they, or one of them, are of a class that is not built.
    """
    state = _unwrap(content)
    if isinstance(state, Placeholder):
        raise _unsafe(file, f"its weights are in a {state.kind}")
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{file} does not hold a state dict")
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, Placeholder):
            raise _unsafe(file, f"{name[:100]!r} is a {value.kind}")
        if not isinstance(name, str) or not isinstance(value, _View):
            raise CheckpointError(
                f"{file} does not hold a state dict: {str(name)[:100]!r} is not a tensor"
            )
    return state


def _unsafe(file: Path, reason: str) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"{file} holds more than tensors ({reason}), and loading it could run code that is hidden in it. If you trust "
        "its source, allow it: allow_unsafe_pickle=True, on the command line --allow-unsafe-pickle"
    )


# ---- tensors, from what the pickle says of them ------------------------------------------------------------


def _storage(name: Any) -> _Storage | Placeholder:
    """The storage of a persistent name: ``("storage", class, key, device, number of elements)``, and None if legacy.

    One of a type that only tensors of other kinds have is a placeholder.
    """
    if not isinstance(name, tuple) or not 5 <= len(name) <= 6 or name[0] != "storage":
        raise ValueError("it refers to something that is no storage")
    _, kind, key, _, size, *view = name
    if not isinstance(kind, Global) or not isinstance(key, str) or not _is_count(size):
        raise ValueError("a storage has no type, name or size")
    if kind not in _STORAGES or view not in ([], [None]):
        return Placeholder(kind)
    return _Storage(key, _STORAGES[kind], size)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _counts(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > MOST_DIMENSIONS:
        raise ValueError("a shape is no tuple, or has too many dimensions")
    if not all(map(_is_count, values)):
        raise ValueError("a shape or stride is no whole number")
    return values


def _tensor(arguments: tuple[Any, ...]) -> _View | Placeholder:
    """The tensor that PyTorch's function would make of storage, offset, shape, stride, and what is not used."""
    if arguments and isinstance(arguments[0], Placeholder):
        return arguments[0]
    if len(arguments) < 4 or not isinstance(arguments[0], _Storage):
        raise ValueError("a tensor has no storage")
    storage, offset = arguments[:2]
    shape, stride = map(_counts, arguments[2:4])
    if not _is_count(offset) or len(shape) != len(stride) or math.prod(shape) >= 2**48:
        raise ValueError("a tensor has no valid offset, shape and stride")
    view = _View(storage, offset, shape, stride)
    if offset + view.extent > storage.size:
        raise ValueError("a tensor reaches beyond its storage")
    return view


def _parameter(arguments: tuple[Any, ...]) -> Any:
    """A parameter is its tensor."""
    if not arguments:
        raise ValueError("a parameter has no tensor")
    return arguments[0]


def _subclassed(arguments: tuple[Any, ...]) -> Any:
    """A tensor that has attributes, or is of a subclass: the function that rebuilds it, a class, and its arguments."""
    if len(arguments) < 3 or arguments[0] != _REBUILD or not isinstance(arguments[2], tuple):
        return Placeholder(Global("torch._tensor", "_rebuild_from_type_v2"))
    return _tensor(arguments[2])


def _ordered_dict(arguments: tuple[Any, ...]) -> Any:
    """An empty dictionary, which the pickle fills; only very old ones give the items to the function."""
    return Placeholder(Global("collections", "OrderedDict")) if arguments else {}


def _size(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if arguments else ()


_REBUILD = Global("torch._utils", "_rebuild_tensor_v2")

BUILDERS: Builders = {
    _REBUILD: _tensor,
    Global("torch._utils", "_rebuild_tensor"): _tensor,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
    Global("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    Global("torch._tensor", "_rebuild_from_type_v2"): _subclassed,
    Global("collections", "OrderedDict"): _ordered_dict,
    Global("torch", "Size"): _size,
}
