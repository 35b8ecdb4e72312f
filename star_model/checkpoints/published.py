"""Official STAR and VAR checkpoints -> a native model directory, by a literal map of names.

Three things make a published STAR: the transformer's ``.pth`` (``{"trainer": {"var_wo_ddp": state dict}}``),
the tokenizer's ``.pth`` (a bare state dict) and a folder ``CLIP`` with ``tokenizer/`` and ``text_encoder/``. A
published VAR is the transformer's ``.pth`` (a bare state dict) and the same tokenizer. The map is strict both
ways: every native tensor must be found, in its shape, and every official one must be used or be a known
buffer.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from star_model.checkpoints.native import (
    check_free,
    check_names,
    check_text_encoder,
    parse_dtype,
    tensor_shapes,
    write_model,
    wrong_shape,
)
from star_model.config import PRESETS, ModelConfig
from star_model.errors import CheckpointError, ConfigError, UnsafeCheckpointError
from star_model.networks.text_encoder import load_published_clip

Shape = tuple[int, ...]
State = Mapping[str, Tensor]

STAR, VAR, VQVAE = "a STAR transformer", "a class-conditional VAR transformer", "a VQVAE"

_TRANSFORMER = {
    "start_position": "pos_start",
    "token_projection.weight": "word_embed.weight",
    "token_projection.bias": "word_embed.bias",
    "scale_embedding.weight": "lvl_embed.weight",
}
_TRANSFORMER_OF = {
    STAR: {
        "text_projection.weight": "encoder_proj.weight",
        "text_projection.bias": "encoder_proj.bias",
        "head.weight": "head_logits.weight",
        "head.bias": "head_logits.bias",
    },
    VAR: {
        "class_embedding.weight": "class_emb.weight",
        "position_embedding": "pos_1LC",
        "shared_modulation.weight": "shared_ada_lin.1.weight",
        "shared_modulation.bias": "shared_ada_lin.1.bias",
        "head_modulation.weight": "head_nm.ada_lin.1.weight",
        "head_modulation.bias": "head_nm.ada_lin.1.bias",
        "head.weight": "head.weight",
        "head.bias": "head.bias",
    },
}

_BLOCK: dict[str, str | tuple[str | None, ...]] = {
    "self_attention.log_temperature": "attn.scale_mul_1H11",
    "self_attention.qkv.weight": "attn.mat_qkv.weight",
    # There is no bias for keys in the published code, only a buffer of zeros in its place: None.
    "self_attention.qkv.bias": ("attn.q_bias", None, "attn.v_bias"),
    "self_attention.proj.weight": "attn.proj.weight",
    "self_attention.proj.bias": "attn.proj.bias",
    "cross_attention.log_temperature": "cross_attn.scale_mul_1H11",
    "cross_attention.q.weight": "cross_attn.mat_q.weight",
    "cross_attention.q.bias": "cross_attn.q_bias",
    "cross_attention.kv.weight": "cross_attn.mat_kv.weight",
    "cross_attention.kv.bias": (None, "cross_attn.v_bias"),
    "cross_attention.proj.weight": "cross_attn.proj.weight",
    "cross_attention.proj.bias": "cross_attn.proj.bias",
    "feed_forward.fc1.weight": "ffn.fc1.weight",
    "feed_forward.fc1.bias": "ffn.fc1.bias",
    "feed_forward.fc2.weight": "ffn.fc2.weight",
    "feed_forward.fc2.bias": "ffn.fc2.bias",
    "modulation.weight": "ada_lin.1.weight",
    "modulation.bias": "ada_lin.1.bias",
    "modulation_offset": "ada_gss",
}

_OFFICIAL_SHAPES: dict[str, Callable[[Shape], Shape]] = {
    "pos_start": lambda native: (1, 1, *native),
    "pos_1LC": lambda native: (1, *native),
    "ada_gss": lambda native: (1, 1, *native),
    "scale_mul_1H11": lambda native: (1, native[0], 1, 1),
}
"""By the last part of an official name: its shape, where it is not the native one."""

_TRANSFORMER_BUFFERS = (
    r"blocks\.\d+\.(attn|cross_attn)\.zero_k_bias"  # checked to be zeros
    r"|lvl_1L|attn_bias_for_masking"  # the schedule and the mask of training
)
_BUFFERS = {
    STAR: re.compile(_TRANSFORMER_BUFFERS + r"|class_emb\.weight"),  # left over from VAR, unused
    VAR: re.compile(_TRANSFORMER_BUFFERS),
    VQVAE: re.compile(r"quantize\.ema_vocab_hit_SV"),  # a statistic of codebook usage
}


@dataclass(frozen=True)
class Source:
    """Where a native tensor comes from.

    Args:
        parts: official names and shapes, joined along the first dimension; a name of None stands for zeros.
        shape: the native shape, of as many elements.
    """

    parts: tuple[tuple[str | None, Shape], ...]
    shape: Shape

    @property
    def official(self) -> dict[str, Shape]:
        """The official tensors that this one is made of."""
        return {name: shape for name, shape in self.parts if name is not None}

    def read(self, state: State) -> Tensor:
        """The native tensor, in the type of the official ones; a view of ``state`` if there is one part."""
        dtype = state[next(iter(self.official))].dtype
        pieces = [
            torch.zeros(shape, dtype=dtype) if name is None else state[name]
            for name, shape in self.parts
        ]
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).reshape(self.shape)


def _same(native: Shape) -> Shape:
    return native


def _sources(
    names: Mapping[str, str | tuple[str | None, ...]], shapes: Mapping[str, Shape]
) -> dict[str, Source]:
    sources = {}
    for native, shape in shapes.items():
        official = names.get(native)
        if official is None:
            raise ConfigError(
                f"published models have no {native}; convert with a configuration like theirs"
            )
        if isinstance(official, str):
            reshaped = _OFFICIAL_SHAPES.get(official.rpartition(".")[2], _same)
            sources[native] = Source(((official, reshaped(shape)),), shape)
        else:
            piece = (shape[0] // len(official), *shape[1:])
            sources[native] = Source(tuple((name, piece) for name in official), shape)
    return sources


def transformer_sources(config: ModelConfig) -> dict[str, Source]:
    """For each native tensor of the transformer, the official ones."""
    names: dict[str, str | tuple[str | None, ...]] = {
        **_TRANSFORMER,
        **_TRANSFORMER_OF[_family_of(config)],
    }
    for i in range(config.transformer.depth):
        for native, official in _BLOCK.items():
            joined = (official,) if isinstance(official, str) else official
            prefixed = tuple(name and f"blocks.{i}.{name}" for name in joined)
            names[f"blocks.{i}.{native}"] = prefixed if len(prefixed) > 1 else prefixed[0] or ""
    return _sources(names, tensor_shapes(config)[0])


def vqvae_sources(config: ModelConfig) -> dict[str, Source]:
    """For each native tensor of the VQVAE, the official one."""
    tokenizer = config.tokenizer
    modules = {
        "quantizer.codebook": "quantize.embedding",
        "quant_conv": "quant_conv",
        "post_quant_conv": "post_quant_conv",
    }
    for k in range(tokenizer.num_phi):
        modules[f"quantizer.phi.{k}.conv"] = f"quantize.quant_resi.qresi_ls.{k}"
    last = len(tokenizer.channel_multipliers) - 1
    for network, levels, resample, blocks in (
        ("encoder", "down", "downsample", tokenizer.num_res_blocks),
        ("decoder", "up", "upsample", tokenizer.num_res_blocks + 1),
    ):
        for name in ("conv_in", "norm_out", "conv_out"):
            modules[f"{network}.{name}"] = f"{network}.{name}"
        modules |= _block(f"{network}.middle.0", f"{network}.mid.block_1")
        if tokenizer.attention:
            modules |= _attention(f"{network}.middle.1", f"{network}.mid.attn_1")
        modules |= _block(f"{network}.middle.{1 + tokenizer.attention}", f"{network}.mid.block_2")
        for i in range(last + 1):
            # Official levels count from high to low resolution in both; native ones in the order they run.
            native, official = (
                f"{network}.levels.{i if levels == 'down' else last - i}",
                f"{network}.{levels}.{i}",
            )
            modules[f"{native}.resample.conv"] = f"{official}.{resample}.conv"
            for j in range(blocks):
                modules |= _block(f"{native}.blocks.{j}", f"{official}.block.{j}")
                modules |= _attention(f"{native}.attentions.{j}", f"{official}.attn.{j}")
    names = {
        f"{native}.{end}": f"{official}.{end}"
        for native, official in modules.items()
        for end in ("weight", "bias")
    }
    return _sources(names, tensor_shapes(config)[1])


def _block(native: str, official: str) -> dict[str, str]:
    same = {
        f"{native}.{name}": f"{official}.{name}" for name in ("norm1", "conv1", "norm2", "conv2")
    }
    return {**same, f"{native}.shortcut": f"{official}.nin_shortcut"}


def _attention(native: str, official: str) -> dict[str, str]:
    names = {"norm": "norm", "qkv": "qkv", "proj": "proj_out"}
    return {f"{native}.{ours}": f"{official}.{theirs}" for ours, theirs in names.items()}


def convert_published(
    *,
    transformer: Path,
    vqvae: Path,
    text_encoder: Path | None,
    out: Path,
    preset: str | ModelConfig,
    allow_unsafe_pickle: bool = False,
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Convert a published STAR or VAR model to the native directory ``out``, all of it or nothing.

    Args:
        transformer: the ``star_*.pth`` or ``var_*.pth`` file.
        vqvae: the tokenizer, ``vae_ch160v4096z32.pth``.
        text_encoder: the folder ``CLIP`` of a STAR, None for a VAR.
        out: must not exist or be empty unless ``overwrite``.
        preset: a name in :data:`star_model.config.PRESETS`, or the configuration of an own training.
        allow_unsafe_pickle: load files that need more than tensors, which may run any code that is in them.
        dtype: of the transformer and text encoder in the native files, by default that of the official ones;
            the VQVAE keeps its own.
        overwrite: see :func:`star_model.checkpoints.native.save_model`.

    Raises:
        CheckpointError: naming the file, and the tensor in it, that is missing, damaged or of another model.
        UnsafeCheckpointError: when a file needs ``allow_unsafe_pickle``.
        ConfigError: for an unknown preset or dtype, or a text encoder too many or too few.
    """
    config = _preset(preset)
    family = _family_of(config)
    if (text_encoder is None) != (family == VAR):
        rule = "needs the folder of its text encoder" if family == STAR else "has no text encoder"
        raise ConfigError(f"{config.name} is {family}, which {rule}")
    cast = None if dtype is None else parse_dtype(dtype)
    check_free(out, overwrite)
    transformer_tensors = _convert(
        transformer, family, transformer_sources(config), allow_unsafe_pickle, cast, config
    )
    vqvae_tensors = _convert(vqvae, VQVAE, vqvae_sources(config), allow_unsafe_pickle, None, config)
    encoder = None
    if text_encoder is not None:
        encoder = load_published_clip(
            text_encoder, config.text_encoder, dtype=cast or torch.float32
        )
        check_text_encoder(text_encoder, encoder, config)
    write_model(
        out,
        config,
        transformer=transformer_tensors,
        vqvae=vqvae_tensors,
        write_text_encoder=encoder.save if encoder else None,
        overwrite=overwrite,
    )


def _preset(preset: str | ModelConfig) -> ModelConfig:
    if isinstance(preset, ModelConfig):
        return preset
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    return PRESETS[preset]


def _convert(
    file: Path,
    family: str,
    sources: Mapping[str, Source],
    allow_unsafe_pickle: bool,
    dtype: torch.dtype | None,
    config: ModelConfig,
) -> dict[str, Tensor]:
    state = read_state_dict(file, allow_unsafe_pickle=allow_unsafe_pickle)
    _check_family(file, state, family)
    if family != VQVAE:
        _check_depth(file, state, config)
    known = {name for name in state if _BUFFERS[family].fullmatch(name)}
    for name in known:
        if name.endswith("zero_k_bias") and state[name].any():
            raise CheckpointError(
                f"{file}: tensor {name} is not all zeros; a bias of keys is not supported"
            )
    official = {
        name: shape for source in sources.values() for name, shape in source.official.items()
    }
    check_names(file, expected=official.keys(), found=state.keys() - known)
    for name, shape in official.items():
        if tuple(state[name].shape) != shape:
            raise CheckpointError(wrong_shape(file, name, shape, state[name].shape))
        if not state[name].is_floating_point() or not state[name].isfinite().all():
            raise CheckpointError(f"{file}: tensor {name} holds values that are not finite numbers")
    tensors = {}
    for native, source in sources.items():
        tensor = source.read(state)
        # Files are read through a memory map: what is not cast stays on the disk until it is written.
        tensors[native] = tensor.to(dtype or _storable(tensor.dtype)).contiguous()
    return tensors


def _storable(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in (torch.float16, torch.bfloat16) else torch.float32


# Reading a .pth


def read_state_dict(file: Path, *, allow_unsafe_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors of an official ``.pth``, unwrapped from ``trainer`` and ``var_wo_ddp`` where they are.

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
                "trust where it comes from, allow it: allow_unsafe_pickle=True, on the command line "
                "--allow-unsafe-pickle"
            ) from error
        raise CheckpointError(
            damaged
        ) from error  # the library's own text advises to load it unsafely
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{damaged}: {_first_line(error)}") from error


def _starts_with(file: Path, magic: bytes) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _check_records(file: Path, damaged: str) -> None:
    """Compare the checksums of a zip file, which PyTorch does not."""
    try:
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise CheckpointError(f"{damaged}: {_first_line(error)}") from error
    if bad is not None:
        raise CheckpointError(f"{damaged}: the checksum of {bad} is wrong")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


# Which model is it?


def _family(state: State) -> str:
    if "word_embed_head.weight" in state:
        return "a STAR transformer with the causal sampler, which is not supported"
    if "encoder_proj.weight" in state:
        return STAR
    if "head_nm.ada_lin.1.weight" in state or "pos_1LC" in state:
        return VAR
    if "quantize.embedding.weight" in state:
        return VQVAE
    return f"a model of another family (its first tensor is {next(iter(state))})"


def _family_of(config: ModelConfig) -> str:
    """The published family whose transformers ``config`` describes."""
    return VAR if config.transformer.num_classes else STAR


def _check_family(file: Path, state: State, expected: str) -> None:
    if (found := _family(state)) != expected:
        swapped = (
            "; are the two files swapped?"
            if VQVAE in (found, expected) and found in _BUFFERS
            else ""
        )
        raise CheckpointError(f"{file} holds {found}, but {expected} is expected here{swapped}")


def _check_depth(file: Path, state: State, config: ModelConfig) -> None:
    """A file of another size differs in every tensor; say so in one sentence."""
    depth = 1 + max(
        (int(m[1]) for name in state if (m := re.match(r"blocks\.(\d+)\.", name))), default=-1
    )
    scales = len(state["lvl_embed.weight"]) if "lvl_embed.weight" in state else 0
    for what, found, expected in (
        ("blocks", depth, config.transformer.depth),
        ("scales", scales, len(config.schedule)),
    ):
        if found and found != expected:
            fitting = [
                p.name
                for p in PRESETS.values()
                if _family_of(p) == _family_of(config)
                and (p.transformer.depth, len(p.schedule)) == (depth, scales)
            ]
            hint = f"; it fits {' or '.join(fitting)}" if fitting else ""
            raise CheckpointError(
                f"{file} has {found} {what}, but {config.name} has {expected}{hint}"
            )
