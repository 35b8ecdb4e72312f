"""Weights without training: numbers that depend on nothing but a name and a shape."""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor, nn


def normal(name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 numbers of ``shape``, the same wherever ``name`` is."""
    stream = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(np.asarray(stream.standard_normal(shape), dtype=np.float32))


def official_parameter(salt: str, name: str, shape: tuple[int, ...]) -> Tensor:
    """The value of an official parameter in the golden models; see ``tests/data/README.md``."""
    x = normal(salt + name, shape)
    last = name.rpartition(".")[2]
    if name.endswith(".sa.scale_mul_1H11"):
        return x + math.log(25)
    if last == "scale_mul_1H11":
        return 0.3 * x + math.log(4)
    if name in ("quantize.embedding.weight", "crop_embed.weight"):
        return x
    if last in ("crop_cond_scales", "cfg_uncond", "mat_q"):
        return 0.5 * x
    if last == "ada_gss" and name.startswith("block_chunks."):
        return 0.5 * x
    if name in ("pos_start", "pos_1LC", "lvl_embed.weight", "class_emb.weight"):
        return 0.5 * x
    if len(shape) >= 2:
        size: float = math.prod(shape[1:]) ** -0.5
        return x * size * (4 if name in ("head.weight", "head_logits.weight") else 1)
    return 1 + 0.1 * x if last == "weight" else 0.1 * x


def fill(module: nn.Module, salt: str) -> None:
    """Give every parameter of a native ``module`` a value of useful size that depends on its name alone."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            x = normal(f"{salt}/{name}", tuple(parameter.shape))
            if name.endswith("log_temperature"):
                x = 0.3 * x + math.log(4)
            elif name.endswith(("codebook.weight", "crop.frequencies")):
                pass
            elif name.endswith(
                (
                    "unconditional",
                    "pooling.query",
                    "_position",
                    "position_embedding",
                    "scale_embedding.weight",
                    "class_embedding.weight",
                )
            ):
                x = 0.5 * x
            elif parameter.ndim >= 2:
                x = x * math.prod(parameter.shape[1:]) ** -0.5 * (4 if name == "head.weight" else 1)
            else:
                x = 1 + 0.1 * x if ".norm" in name and name.endswith("weight") else 0.1 * x
            parameter.copy_(x)
