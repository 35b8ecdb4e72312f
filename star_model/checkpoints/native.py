"""The native format, and loading it: a directory with a configuration and one safetensors file a network.

    config.json                 ModelConfig, and the version of this format
    transformer.safetensors     StarTransformer, in any of float32, float16, bfloat16, or large matrices in int8;
                                see :mod:`star_model.checkpoints.int8`
    vqvae.safetensors           the image tokenizer, likewise
    text_encoder/               files of ``save_pretrained`` of encoder and tokenizer; of two encoders, in the
                                folders ``first`` and ``second``; none for a class-conditional model
    vocabulary.json             optional: all words and things that it knows; see :mod:`star_model.vocabulary`
    SHA256SUMS                  of the files above, in the format of ``sha256sum --check``
    about.json                  optional: the model in words; see :mod:`star_model.about`
    gallery/                    optional: pictures that it painted ahead; see :mod:`star_model.gallery`

Loading is strict, and checks names and shapes in the headers before it reads any data. Networks are built on
the meta device, so that a model is in memory once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from star_model.about import read_about
from star_model.checkpoints.int8 import SCALE, restore_rows
from star_model.config import ModelConfig
from star_model.errors import CheckpointError, ConfigError
from star_model.gallery import read_gallery
from star_model.json_file import read_json
from star_model.model import StarModel
from star_model.native_files import CONFIG, SUMS, TEXT_ENCODER, TOKENIZER, TRANSFORMER
from star_model.networks.attention import choose_backend
from star_model.networks.clip_pair import ClipPairEncoder, load_clip_pair
from star_model.networks.image_tokenizer import ImageTokenizer
from star_model.networks.meta import on_meta
from star_model.networks.precision import (
    choose_device,
    choose_precision,
    dtype_of,
    parse_dtype,
)
from star_model.networks.rope import rope_table
from star_model.networks.text_encoder import (
    ClassEncoder,
    TextEncoder,
    TransformersTextEncoder,
    load_text_encoder,
)
from star_model.networks.tokenizers import build_tokenizer
from star_model.networks.transformer import StarTransformer
from star_model.prompt_reader import PromptReader
from star_model.vocabulary import read_vocabulary

FORMAT = 2
"""Version of the native format; a larger number in ``config.json`` is refused. Version 2 has ``tokenizer.kind``, and
allows weights in int8."""

_STORED_DTYPES = {"F32", "F16", "BF16"}

Shapes = dict[str, tuple[int, ...]]


@lru_cache(maxsize=8)  # a conversion asks twice, and to build thirty blocks takes a second
def tensor_shapes(config: ModelConfig) -> tuple[Shapes, Shapes]:
    """Names and shapes of the native tensors of a transformer and of a VQVAE, without allocating them.

    They are kept: do not change them.
    """
    transformer, vqvae = _on_meta(config)
    return _shapes(transformer), _shapes(vqvae)


def _on_meta(
    config: ModelConfig, attention: str | None = None, device: str = "cpu"
) -> tuple[StarTransformer, ImageTokenizer]:
    attend = choose_backend(torch.device(device), attention)
    with on_meta():
        return StarTransformer(config, attend), build_tokenizer(config)


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def read_config(path: Path | str) -> ModelConfig:
    """Read the configuration of the model in directory ``path``.

    Raises:
        CheckpointError: when the file is missing, is not JSON or needs a newer version, or naming the wrong key.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise CheckpointError(f"model directory {directory} does not exist")
    file = _existing(directory / CONFIG)
    data = read_json(file)
    if not isinstance(data, dict) or type(data.get("format")) is not int:
        raise CheckpointError(
            f'{file} is not the configuration of a model: it has no whole number "format"'
        )
    if (version := data.pop("format")) > FORMAT:
        raise CheckpointError(
            f"{file} has format {version}, this version of star_model reads up to {FORMAT}; please upgrade"
        )
    try:
        return ModelConfig.from_dict(data)
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error


def load_model(
    path: Path | str,
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    attention: str | None = None,
    verify: bool = False,
) -> StarModel:
    """Load the model in the native directory ``path``.

    Args:
        path: see the top of this module.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: of the transformer, whatever the file holds; the other networks follow, see
            :func:`star_model.networks.precision.choose_precision`. ``auto`` is what the server runs: half
            precision where the device is fast at it. ``float32`` is exact everywhere, and the one to save a model
            again from.
        attention: backend of the transformer's attention, by default the device's.
        verify: compare all files with ``SHA256SUMS`` first.

    Raises:
        CheckpointError: naming the file, and the tensor or key in it, that is missing, damaged or not of this
            model.
        ConfigError: for an unknown device, dtype or attention backend.
    """
    directory = Path(path)
    config = read_config(directory)
    place = choose_device(device)
    precision = choose_precision(place, None if dtype == "auto" else parse_dtype(dtype))
    if verify:
        verify_checksums(directory)
    transformer, vqvae = _on_meta(config, attention, place.type)
    _fill(transformer, directory / TRANSFORMER, place, precision.transformer)
    _set_positions(transformer, config, place)
    _fill(vqvae, directory / TOKENIZER, place, torch.float32)
    vqvae.set_decoder_format(precision.decoder)
    text_encoder = _load_encoder(directory / TEXT_ENCODER, config, place, precision.text_encoder)
    return StarModel(
        config,
        transformer,
        vqvae,
        text_encoder,
        place,
        precision.transformer,
        about=read_about(directory),
        reader=_load_reader(directory, text_encoder),
        gallery=read_gallery(directory),
    )


def _set_positions(transformer: StarTransformer, config: ModelConfig, device: torch.device) -> None:
    """Compute the rotary positions, if the model has them, in float32: bfloat16 has too few digits for their angles."""
    if config.transformer.positions != "absolute":
        transformer.rope = rope_table(config).to(device)


def _load_reader(directory: Path, text_encoder: TextEncoder) -> PromptReader | None:
    """The reader of prompts of a model that knows few things; None of one that takes any prompt."""
    vocabulary = read_vocabulary(directory)
    if vocabulary is None or not isinstance(text_encoder, TransformersTextEncoder):
        return None
    return PromptReader(vocabulary, text_encoder.pooled, text_encoder.is_word)


def _load_encoder(
    directory: Path, config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> TextEncoder:
    if config.transformer.num_classes:
        return ClassEncoder(config.transformer.num_classes)
    load = load_clip_pair if config.text_encoder.family == "clip_pair" else load_text_encoder
    encoder = load(directory, config.text_encoder, device=device, dtype=dtype)
    check_text_encoder(directory, encoder, config)
    return encoder


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing")
    return file


def _fill(module: nn.Module, file: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Load the tensors in ``file`` into ``module``, which is on the meta device, and make it ready to run."""
    module.load_state_dict(
        _read_tensors(file, _shapes(module), device, dtype), strict=True, assign=True
    )
    module.eval().requires_grad_(False)


def _read_tensors(
    file: Path, shapes: Shapes, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    try:
        with safe_open(_existing(file), framework="pt") as stored:
            in_int8 = _check_headers(file, stored, shapes)
            # Copied, so that no page of the file stays mapped once the model is loaded.
            return {
                name: restore_rows(stored.get_tensor(name), stored.get_tensor(name + SCALE)).to(
                    device, dtype_of(name, dtype)
                )
                if name in in_int8
                else stored.get_tensor(name).to(device, dtype_of(name, dtype), copy=True)
                for name in shapes
            }
    except SafetensorError as error:
        raise CheckpointError(
            f"{file} is damaged or incomplete, fetch or convert it again: {error}"
        ) from error


def _check_headers(file: Path, stored: Any, shapes: Shapes) -> set[str]:
    """Check names, shapes and types of all tensors in ``stored``, the opened ``file``.

    Returns:
        Names of the matrices that are stored in int8.

    Raises:
        CheckpointError: naming the first tensor that is wrong.
    """
    found = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118, not a mapping
    in_int8 = {name for name in shapes if name in found and found[name].get_dtype() == "I8"}
    scales: Shapes = {name + SCALE: shapes[name][:1] for name in in_int8}
    check_names(file, expected=shapes.keys() | scales.keys(), found=found.keys())
    for name, shape in (shapes | scales).items():
        if tuple(found[name].get_shape()) != shape:
            raise CheckpointError(wrong_shape(file, name, shape, found[name].get_shape()))
        if name not in in_int8 and found[name].get_dtype() not in _STORED_DTYPES:
            raise CheckpointError(
                f"{file}: tensor {name} has type {found[name].get_dtype()}, not a float"
            )
    return in_int8


def check_names(file: Path, *, expected: Set[str], found: Set[str]) -> None:
    """Check that a file has the expected tensors, by name.

    Raises:
        CheckpointError: naming ``file``, and the first tensor that is missing or unexpected.
    """
    for names, what in ((expected - found, "is missing"), (found - expected, "is unexpected")):
        if names:
            others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise CheckpointError(f"{file}: tensor {min(names)}{others} {what}")


def wrong_shape(file: Path, name: str, expected: Sequence[int], found: Sequence[int]) -> str:
    """Message for a tensor whose shape is not the one that the configuration gives."""
    return f"{file}: tensor {name} has shape {tuple(found)}, expected {tuple(expected)}"


def check_text_encoder(
    directory: Path, encoder: TransformersTextEncoder | ClipPairEncoder, config: ModelConfig
) -> None:
    """Check the sizes of ``encoder``, loaded from ``directory``, against ``config``.

    Raises:
        CheckpointError: when hidden states have another width, or it has fewer positions than ``max_tokens``.
    """
    for what, found, expected in (
        ("hidden states have", encoder.hidden_size, config.transformer.text_dim),
        ("pooled feature has", encoder.pooled_size, config.transformer.pooled_width),
    ):
        if found != expected:
            raise CheckpointError(
                f"{directory}: the text encoder's {what} width {found}, expected {expected}"
            )
    if encoder.positions < config.text_encoder.max_tokens:
        raise CheckpointError(
            f"{directory}: the text encoder has {encoder.positions} positions, "
            f"expected at least {config.text_encoder.max_tokens}"
        )


def verify_checksums(directory: Path) -> None:
    """Check every file that ``SHA256SUMS`` lists.

    Raises:
        CheckpointError: naming the file that is missing or differs.
    """
    lines = _existing(directory / SUMS).read_text(encoding="utf-8").splitlines()
    for line in filter(None, lines):
        digest, _, name = line.partition("  ")
        if sha256(_existing(directory / name)) != digest:
            raise CheckpointError(
                f"{directory / name} differs from its SHA-256 sum in {SUMS}; fetch it again"
            )


def sha256(file: Path) -> str:
    """The SHA-256 sum of ``file``, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
