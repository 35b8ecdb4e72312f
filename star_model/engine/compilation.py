"""Optional fusion of the networks' elementwise work by ``torch.compile``; results differ in the low bits.

Two parts are compiled: rotating and normalising queries and keys, about ten of a block's thirty kernels, and the
decoder. The rest of a block is matrix products, attention and single kernels, where a compiler gains nothing; and keys
and values are written in place, where it would make copies. Graphs (:mod:`star_model.engine.graphs`) capture compiled
kernels like any others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

from star_model.model import StarModel
from star_model.networks.block import StarBlock

Backend = Callable[..., Any]

_PARTS = (("self_attention", "queries_keys_values"), ("cross_attention", "queries"))


def compile_networks(model: StarModel, backend: str | Backend = "inductor") -> None:
    """Compile the parts that gain from it, in place; they compile, or fail, at their first run: warm up afterwards.

    Args:
        model: the model whose networks are compiled.
        backend: of ``torch.compile``; the default generates kernels, which needs Triton or a C++ compiler.
    """
    for block in model.transformer.blocks:
        for attention, method in _PARTS:
            # All blocks share the method's code, so it is compiled once, and again when sizes turn out to vary.
            if (module := getattr(cast("StarBlock", block), attention)) is not None:
                setattr(module, method, torch.compile(getattr(module, method), backend=backend))
    model.vqvae.decoder.compile(backend=backend)


def restore_networks(model: StarModel) -> None:
    """Undo :func:`compile_networks`."""
    for block in model.transformer.blocks:
        for attention, method in _PARTS:
            vars(getattr(cast("StarBlock", block), attention)).pop(method, None)
    model.vqvae.decoder._compiled_call_impl = None
