"""Devices, and the precision that each network runs in: fast on the device, and good enough for the result."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from star_model.errors import ConfigError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """One of :data:`DTYPES`, from its name or as it is.

    Raises:
        ConfigError: for any other.
    """
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return found


def choose_device(device: str) -> torch.device:
    """The PyTorch device called ``device``; ``auto`` is CUDA if there is a GPU, else the CPU.

    Raises:
        ConfigError: when there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(
            f"device {device} is not there: PyTorch finds {found} CUDA devices; use auto or cpu"
        )
    return chosen


@dataclass(frozen=True)
class Precision:
    """Types of the networks' weights. The quantizer and the image encoder are always in float32.

    Attributes:
        transformer: also the type of keys and values. Guidance multiplies its rounding errors, so it affects tokens.
        decoder: of the VQVAE. In bfloat16 it is off by half a grey level, which cannot be seen.
        text_encoder: float16 on a GPU, as published.
    """

    transformer: torch.dtype
    decoder: torch.dtype
    text_encoder: torch.dtype


def choose_precision(device: torch.device, transformer: torch.dtype | None = None) -> Precision:
    """Choose the precision of all networks: half precision, but on a CPU only where its processor multiplies in it.

    Args:
        device: the device that they run on.
        transformer: overrides the choice: float32 keeps everything exact; float16 and bfloat16 put transformer and
            decoder in half precision, fast or not.
    """
    if transformer is None:
        transformer = torch.bfloat16 if is_fast_at_bfloat16(device) else torch.float32
    decoder = torch.float32 if transformer == torch.float32 else torch.bfloat16
    exact = device.type == "cpu" or transformer == torch.float32
    return Precision(transformer, decoder, torch.float32 if exact else torch.float16)


_EXACT = re.compile(r"crop\..*")
"""See :mod:`star_model.networks.crop_condition`."""


def is_exact(name: str) -> bool:
    """True if the parameter ``name`` of a network is in float32 in every precision."""
    return _EXACT.fullmatch(name) is not None


def dtype_of(name: str, dtype: torch.dtype) -> torch.dtype:
    """The type of the parameter ``name`` of a network whose precision is ``dtype``."""
    return torch.float32 if is_exact(name) else dtype


def is_imitated(device: torch.device, dtype: torch.dtype) -> bool:
    """True if ``device`` only emulates ``dtype``, many times slower than float32."""
    return dtype != torch.float32 and not is_fast_at_bfloat16(device)


def is_fast_at_bfloat16(device: torch.device) -> bool:
    """True if ``device`` multiplies matrices in bfloat16 faster than in float32."""
    return device.type != "cpu" or has_fast_bfloat16()


def has_fast_bfloat16() -> bool:
    """True if this processor multiplies in bfloat16 faster than in float32."""
    return torch.cpu._is_avx512_bf16_supported()
