"""Writing a native model directory: beside its place first, moved there when complete."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from star_model.about import About, write_about
from star_model.checkpoints.int8 import quantize_state
from star_model.checkpoints.lazy_tensor import LazyTensor, write_safetensors
from star_model.checkpoints.native import FORMAT, sha256
from star_model.config import ModelConfig
from star_model.errors import CheckpointError
from star_model.model import StarModel
from star_model.native_files import CONFIG, SUMS, TEXT_ENCODER, TOKENIZER, TRANSFORMER
from star_model.networks.clip_pair import ClipPairEncoder
from star_model.networks.precision import dtype_of, parse_dtype
from star_model.networks.text_encoder import ClassEncoder, TransformersTextEncoder
from star_model.vocabulary import VOCABULARY, Vocabulary


def save_model(
    model: StarModel,
    path: Path | str,
    *,
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Write ``model`` as a native directory, all of it or nothing.

    Args:
        model: the model; its text encoder must be a :class:`TransformersTextEncoder`, a :class:`ClipPairEncoder`, or
            a :class:`ClassEncoder`, which needs no file.
        path: the directory, which must not exist, or be empty, unless ``overwrite``.
        dtype: of all three networks in the files; by default each keeps its own. ``"int8"`` stores the large matrices
            of transformer and image tokenizer in eight bits, with one scale a row, and all else in float16.
        overwrite: replace an existing model; other files in the directory (a model card, licences) are kept.

    Raises:
        CheckpointError: when ``path`` is in use, or the text encoder cannot be saved.
    """
    encoder = model.text_encoder
    if not isinstance(encoder, TransformersTextEncoder | ClipPairEncoder | ClassEncoder):
        raise CheckpointError(
            f"a {type(encoder).__name__} cannot be saved; only encoders of transformers can"
        )
    in_int8 = dtype == "int8"
    cast = None if dtype is None else torch.float16 if in_int8 else parse_dtype(dtype)
    networks = [
        {name: t.detach().cpu() for name, t in network.state_dict().items()}
        for network in (model.transformer, model.vqvae)
    ]
    transformer, vqvae = (
        quantize_state(state, torch.float16)
        if in_int8
        else {name: t.to(dtype_of(name, cast or t.dtype)) for name, t in state.items()}
        for state in networks
    )
    write_model(
        Path(path),
        model.config,
        transformer={name: LazyTensor.of(t) for name, t in transformer.items()},
        vqvae={name: LazyTensor.of(t) for name, t in vqvae.items()},
        write_text_encoder=(
            None
            if isinstance(encoder, ClassEncoder)
            else lambda directory: encoder.save(directory, cast)
        ),
        vocabulary=None if model.reader is None else model.reader.vocabulary,
        overwrite=overwrite,
    )


def write_model(
    path: Path,
    config: ModelConfig,
    *,
    transformer: Mapping[str, LazyTensor],
    vqvae: Mapping[str, LazyTensor],
    write_text_encoder: Callable[[Path], None] | None,
    vocabulary: Vocabulary | None = None,
    about: About | None = None,
    overwrite: bool = False,
) -> None:
    """Write a native directory from its parts; see :func:`save_model`.

    Each tensor is read when it is its turn to be written. ``about`` is for a directory that has no ``about.json``.

    Raises:
        CheckpointError: also when the disk is full.
    """
    with _new_directory(path, overwrite) as directory:
        _write(directory / TRANSFORMER, transformer)
        _write(directory / TOKENIZER, vqvae)
        if write_text_encoder is not None:
            (directory / TEXT_ENCODER).mkdir()
            write_text_encoder(directory / TEXT_ENCODER)
        if vocabulary is not None:
            vocabulary.save(directory)
        text = json.dumps({"format": FORMAT, **config.to_dict()}, indent=2)
        (directory / CONFIG).write_text(text + "\n", encoding="utf-8")
        files = sorted(f for f in directory.rglob("*") if f.is_file())
        sums = "".join(f"{sha256(f)}  {f.relative_to(directory).as_posix()}\n" for f in files)
        (directory / SUMS).write_text(sums, encoding="utf-8")
        if about is not None:  # after the sums: people may change it
            write_about(directory, about)


def _write(file: Path, tensors: Mapping[str, LazyTensor]) -> None:
    try:
        write_safetensors(file, tensors)
    except OSError as error:
        raise CheckpointError(
            f"{file.name} cannot be written in {file.parent.parent}: {error.strerror}; choose another output path"
        ) from error


@contextmanager
def _new_directory(path: Path, overwrite: bool) -> Iterator[Path]:
    """A hidden directory beside ``path`` that takes its place when the block succeeds, and is removed when it fails."""
    check_free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        yield partial
        _open_to_readers(partial)
        if path.is_dir():
            _keep_other_files(path, partial)
            _replace(path, partial)
        else:
            partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _keep_other_files(old: Path, new: Path) -> None:
    """Copy the files from ``old`` to ``new`` that are no part of the format: a card, licences, ``about.json``."""
    for entry in old.iterdir():
        if entry.name not in (CONFIG, TRANSFORMER, TOKENIZER, TEXT_ENCODER, VOCABULARY, SUMS):
            (shutil.copytree if entry.is_dir() else shutil.copy2)(entry, new / entry.name)


def _replace(path: Path, new: Path) -> None:
    """Put the directory ``new`` in the place of the directory ``path``; if that fails, ``path`` is as before."""
    old = new.with_suffix(".old")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old)


def _open_to_readers(directory: Path) -> None:
    """Make files as readable as their directory: safetensors writes files that only their owner can read."""
    for file in directory.rglob("*"):
        if file.is_file():
            file.chmod(file.stat().st_mode | (directory.stat().st_mode & 0o444))


def check_free(path: Path, overwrite: bool = False) -> None:
    """Check that a model may be written to ``path``.

    Raises:
        CheckpointError: when it is a file, or a directory that is not empty and not to be overwritten.
    """
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path} is not a directory; choose another output path")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise CheckpointError(
            f"{path} is not empty; choose another output path, or remove it first"
        )
