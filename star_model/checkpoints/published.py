"""Conversion of a published model to a native directory, by the literal map of names of its family.

The map is strict both ways: every native tensor must be found, in its shape, and every published one must be used or be
a known buffer. The maps, and what else differs between families, are in :mod:`star_model.families`.

Names and shapes are checked before any values are read. Those are read, checked and written tensor by tensor, so that a
file of any size is converted in the memory of its largest tensor, beside the text encoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from star_model.about import About
from star_model.checkpoints.lazy_tensor import LazyTensor
from star_model.checkpoints.native import (
    check_names,
    check_text_encoder,
    tensor_shapes,
    wrong_shape,
)
from star_model.checkpoints.saving import check_free, write_model
from star_model.checkpoints.state_dict import read_state_dict
from star_model.config import ModelConfig
from star_model.errors import CheckpointError, ConfigError
from star_model.families.family import Family, PublishedNetwork, Shape
from star_model.families.registry import FAMILIES, PRESETS, UNPUBLISHED, family_of
from star_model.networks.clip_pair import ClipPairEncoder, load_published_clip_pair
from star_model.networks.precision import dtype_of, parse_dtype
from star_model.networks.text_encoder import (
    TransformersTextEncoder,
    load_published_clip,
    load_published_t5,
)

State = Mapping[str, LazyTensor]


@dataclass(frozen=True)
class Source:
    """The published tensors that make up a native one.

    Args:
        parts: published names and shapes, joined along the first dimension; a name of None stands for zeros.
        shape: the native shape, of as many elements.
    """

    parts: tuple[tuple[str | None, Shape], ...]
    shape: Shape

    @property
    def published(self) -> dict[str, Shape]:
        """Names and shapes of the published tensors."""
        return {name: shape for name, shape in self.parts if name is not None}

    def dtype(self, state: State) -> torch.dtype:
        """The type of the published tensors."""
        return state[next(iter(self.published))].dtype

    def read(self, state: State) -> Tensor:
        """The native tensor, in the type of the published ones.

        Raises:
            ValueError: naming the published tensor that has a value which is not a finite number.
        """
        pieces = []
        for name, shape in self.parts:
            if name is None:
                pieces.append(torch.zeros(shape, dtype=self.dtype(state)))
                continue
            pieces.append(state[name].read())
            if not pieces[-1].isfinite().all():
                raise ValueError(f"tensor {name} holds values that are not finite numbers")
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).reshape(self.shape)


def _same(native: Shape) -> Shape:
    return native


def _sources(
    network: PublishedNetwork, config: ModelConfig, shapes: Mapping[str, Shape]
) -> dict[str, Source]:
    names = network.names(config)
    sources = {}
    for native, shape in shapes.items():
        published = names.get(native)
        if published is None:
            raise ConfigError(
                f"{network.title} has no {native} in its published form; convert with a configuration of that form"
            )
        if isinstance(published, str):
            reshaped = network.shapes.get(published.rpartition(".")[2], _same)
            sources[native] = Source(((published, reshaped(shape)),), shape)
        else:
            piece = (shape[0] // len(published), *shape[1:])
            sources[native] = Source(tuple((name, piece) for name in published), shape)
    return sources


def transformer_sources(config: ModelConfig) -> dict[str, Source]:
    """The source of each native tensor of the transformer, by its native name."""
    return _sources(family_of(config).transformer, config, tensor_shapes(config)[0])


def vqvae_sources(config: ModelConfig) -> dict[str, Source]:
    """The source of each native tensor of the VQVAE, by its native name."""
    return _sources(family_of(config).vqvae, config, tensor_shapes(config)[1])


def convert_published(
    *,
    transformer: Path,
    vqvae: Path,
    text_encoder: Path | Sequence[Path] | None,
    out: Path,
    preset: str | ModelConfig,
    allow_unsafe_pickle: bool = False,
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Convert a published STAR, Switti, Infinity or VAR model to the native directory ``out``, all of it or nothing.

    Args:
        transformer: the transformer: a ``.pth`` or ``.safetensors`` file, the index of several, or their folder.
        vqvae: the tokenizer, likewise.
        text_encoder: the folder ``CLIP`` of a STAR; the two folders of the CLIP models of a Switti, the smaller first;
            the folder of the T5 model of an Infinity; None for a VAR.
        out: the directory, which must not exist, or be empty, unless ``overwrite``.
        preset: a name in :data:`star_model.families.registry.PRESETS`, or a configuration.
        allow_unsafe_pickle: read tensors of kinds that no published file has, which runs any code that is in the file.
        dtype: of the native transformer and text encoder, by default as published; the VQVAE keeps its own.
        overwrite: see :func:`star_model.checkpoints.saving.save_model`.

    Raises:
        CheckpointError: naming the file, or the tensor in it, that is missing, damaged or of another model.
        UnsafeCheckpointError: when a file needs ``allow_unsafe_pickle``.
        ConfigError: for an unknown preset or dtype, or a text encoder that is missing or not needed.
    """
    config = _preset(preset)
    family = family_of(config)
    folders = _folders(text_encoder, config, family)
    cast = None if dtype is None else parse_dtype(dtype)
    check_free(out, overwrite)
    _check_there(transformer, vqvae, *folders)
    state = _read(transformer, family.transformer, family, allow_unsafe_pickle)
    _check_depth(transformer, state, config)
    tensors = _convert(transformer, state, family.transformer, transformer_sources(config), cast)
    state = _read(vqvae, family.vqvae, family, allow_unsafe_pickle)
    vqvae_tensors = _convert(vqvae, state, family.vqvae, vqvae_sources(config), None)
    encoder = _load_encoder(folders, config, cast) if folders else None
    write_model(
        out,
        config,
        transformer=tensors,
        vqvae=vqvae_tensors,
        write_text_encoder=encoder.save if encoder else None,
        about=_about(preset, family),
        overwrite=overwrite,
    )


def _about(preset: str | ModelConfig, family: Family) -> About | None:
    """The licence of a published model, where its publisher states one."""
    license = family.license_of(preset) if isinstance(preset, str) else None
    return About(license=license) if license else None


def _check_there(*paths: Path) -> None:
    """Raise a CheckpointError that names all of ``paths`` that do not exist."""
    if missing := [str(path) for path in paths if not path.exists()]:
        verb = "is" if len(missing) == 1 else "are"
        raise CheckpointError(f"{' and '.join(missing)} {verb} missing")


def _folders(
    text_encoder: Path | Sequence[Path] | None, config: ModelConfig, family: Family
) -> tuple[Path, ...]:
    """The folders of the text encoders, as many as the family has.

    Raises:
        ConfigError: when there are more or less.
    """
    if text_encoder is None:
        given: tuple[Path, ...] = ()
    else:
        given = (text_encoder,) if isinstance(text_encoder, Path) else tuple(text_encoder)
    expected = len(family.text_encoders)
    if len(given) != expected:
        rule = ("has no text encoder", "needs the folder of its text encoder")
        needs = rule[expected] if expected < 2 else f"needs the folders of {expected} text encoders"
        raise ConfigError(f"{config.name} is {family.transformer.title}, which {needs}")
    return given


def _load_encoder(
    folders: Sequence[Path], config: ModelConfig, dtype: torch.dtype | None
) -> TransformersTextEncoder | ClipPairEncoder:
    cast = dtype or torch.float32
    encoder: TransformersTextEncoder | ClipPairEncoder
    if config.text_encoder.family == "clip_pair":
        encoder = load_published_clip_pair(folders, config.text_encoder, dtype=cast)
    elif config.text_encoder.family == "t5":
        encoder = load_published_t5(folders[0], config.text_encoder, dtype=cast)
    else:
        encoder = load_published_clip(folders[0], config.text_encoder, dtype=cast)
    check_text_encoder(folders[-1], encoder, config)
    return encoder


def _preset(preset: str | ModelConfig) -> ModelConfig:
    if isinstance(preset, ModelConfig):
        return preset
    if preset in UNPUBLISHED:
        raise ConfigError(UNPUBLISHED[preset])
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    return PRESETS[preset]


def _read(
    file: Path, network: PublishedNetwork, family: Family, allow_unsafe_pickle: bool
) -> dict[str, LazyTensor]:
    """The tensors in ``file``, which must be those of ``network``."""
    state = read_state_dict(file, allow_unsafe_pickle=allow_unsafe_pickle)
    found = _identify(state)
    if isinstance(found, str):
        raise CheckpointError(f"{file} holds {found}, but {network.title} is expected here")
    if found is not network:
        swapped = "; are the two files swapped?" if family.vqvae in (found, network) else ""
        raise CheckpointError(
            f"{file} holds {found.title}, but {network.title} is expected here{swapped}"
        )
    canonical = network.canonical(state.keys())
    return {canonical[name]: tensor for name, tensor in state.items()}


def _identify(state: State) -> PublishedNetwork | str:
    """The published network that ``state`` holds; for one that cannot be converted, its title."""
    networks = [n for family in FAMILIES for n in (family.transformer, family.vqvae)]
    for network in networks:
        for marker, title in network.unsupported.items():
            if marker in state:
                return title
    for network in networks:
        if not network.markers.isdisjoint(state):
            return network
    return f"a model of another family (its first tensor is {next(iter(state))})"


def _convert(
    file: Path,
    state: State,
    network: PublishedNetwork,
    sources: Mapping[str, Source],
    dtype: torch.dtype | None,
) -> dict[str, LazyTensor]:
    """The native tensors, which read the published ones when they are read."""
    for name in state:
        if network.zeros.fullmatch(name) and state[name].read().any():
            raise CheckpointError(f"{file}: tensor {name} is not all zeros, which is not supported")
    buffers = {name for name in state if network.buffers.fullmatch(name)}
    published = {
        name: shape for source in sources.values() for name, shape in source.published.items()
    }
    native_shapes = {name: source.shape for source in sources.values() for name in source.published}
    check_names(file, expected=published.keys(), found=state.keys() - buffers)
    for name, shape in published.items():
        other = network.other_shapes.get(name.rpartition(".")[2])
        shapes = (shape, other(native_shapes[name])) if other else (shape,)
        if state[name].shape not in shapes:
            raise CheckpointError(wrong_shape(file, name, shape, state[name].shape))
        if not state[name].dtype.is_floating_point:
            raise CheckpointError(
                f"{file}: tensor {name} has type {state[name].dtype}, not a float"
            )
    tensors = {}
    for native, source in sources.items():
        cast = dtype_of(native, dtype or _storable(source.dtype(state)))
        tensors[native] = LazyTensor(cast, source.shape, partial(_cast, file, source, state, cast))
    return tensors


def _cast(file: Path, source: Source, state: State, dtype: torch.dtype) -> Tensor:
    try:
        return source.read(state).to(dtype)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error


def _storable(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in (torch.float16, torch.bfloat16) else torch.float32


def _check_depth(file: Path, state: State, config: ModelConfig) -> None:
    """Report a file of another size in one sentence: each of its tensors differs."""
    depth = 1 + max(
        (int(m[1]) for name in state if (m := re.match(r"blocks\.(\d+)\.", name))), default=-1
    )
    scales = next(iter(state["lvl_embed.weight"].shape), 0) if "lvl_embed.weight" in state else 0
    for what, found, expected in (
        ("blocks", depth, config.transformer.depth),
        ("scales", scales, _scale_embeddings(config)),
    ):
        if found and found != expected:
            fitting = [
                p.name
                for p in PRESETS.values()
                if family_of(p) is family_of(config)
                and (p.transformer.depth, _scale_embeddings(p)) == (depth, scales)
            ]
            hint = f"; it fits {' or '.join(fitting)}" if fitting else ""
            raise CheckpointError(
                f"{file} has {found} {what}, but {config.name} has {expected}{hint}"
            )


def _scale_embeddings(config: ModelConfig) -> int:
    return config.transformer.scale_embeddings or len(config.schedule)
