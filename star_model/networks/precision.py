"""Devices, and the precision that each network runs in: fast on the device, and good enough for the result."""

from __future__ import annotations

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
    """Types of the networks' weights. The quantizer and the encoder of images are always in float32.

    Attributes:
        transformer: also of keys and values. What it rounds off, guidance multiplies, so it decides about tokens.
        decoder: that of the VQVAE. In bfloat16 it is half a grey level off, which cannot be seen.
        text_encoder: as published in float16, where it is on a GPU.
    """

    transformer: torch.dtype
    decoder: torch.dtype
    text_encoder: torch.dtype


def choose_precision(device: torch.device, transformer: torch.dtype | None = None) -> Precision:
    """The fastest that changes no token on a CPU, half precision elsewhere; or that of the given type.

    Args:
        transformer: float32 keeps everything exact; float16 and bfloat16 halve the transformer and the decoder.
    """
    on_cpu = device.type == "cpu"
    if transformer is None:
        transformer = torch.float32 if on_cpu else torch.bfloat16
        decoder = torch.bfloat16 if is_fast_at_bfloat16(device) else torch.float32
    else:
        decoder = torch.float32 if transformer == torch.float32 else torch.bfloat16
    exact = on_cpu or transformer == torch.float32
    return Precision(transformer, decoder, torch.float32 if exact else torch.float16)


def is_imitated(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``device`` has no arithmetic of ``dtype``, and computes it many times slower than float32."""
    return dtype != torch.float32 and not is_fast_at_bfloat16(device)


def is_fast_at_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies matrices of bfloat16 faster than those of float32."""
    return device.type != "cpu" or has_fast_bfloat16()


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32."""
    return torch.cpu._is_avx512_bf16_supported()
