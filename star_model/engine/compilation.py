"""The networks' elementwise work as fused kernels, by ``torch.compile``: an option, whose results differ in the
low bits.

Compiled are what turns and normalises queries and keys, which are ten kernels or so of a block's thirty, and the
decoder. The rest of a block is matrix products, attention and single kernels, from which a compiler gains
nothing; and keys and values are written in place, of which it would make copies. Captured graphs
(:mod:`star_model.engine.graphs`) hold what is compiled as they hold everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

from star_model.model import StarModel
from star_model.networks.transformer import StarBlock

Backend = Callable[..., Any]

_PARTS = (("self_attention", "queries_keys_values"), ("cross_attention", "queries"))


def compile_networks(model: StarModel, backend: str | Backend = "inductor") -> None:
    """Compile what gains from it, in place. The work is done, or fails, when a size first runs: warm up after it.

    Args:
        model: whose networks are compiled.
        backend: of ``torch.compile``; the default writes kernels, for which it needs Triton or a C++ compiler.
    """
    for block in model.transformer.blocks:
        for attention, method in _PARTS:
            # All blocks share the method's code, so it is compiled once, and once more as sizes turn out to vary.
            if (module := getattr(cast("StarBlock", block), attention)) is not None:
                setattr(module, method, torch.compile(getattr(module, method), backend=backend))
    model.vqvae.decoder.compile(backend=backend)


def restore_networks(model: StarModel) -> None:
    """Undo :func:`compile_networks`."""
    for block in model.transformer.blocks:
        for attention, method in _PARTS:
            vars(getattr(cast("StarBlock", block), attention)).pop(method, None)
    model.vqvae.decoder._compiled_call_impl = None
