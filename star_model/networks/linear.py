"""Linear layers of the blocks, alone or before a GELU: in bfloat16 on a CPU, each is one operation of oneDNN.

PyTorch computes such a layer in two passes, a copy of the bias into the result and a product that is added to it, and
its GELU in a third, which takes longer than the product (measured in ``benchmarks/LOG.md``). In float32 nothing is
fused, so that tokens stay what they are.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """:class:`torch.nn.Linear`, with the same parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return _fused(self, x, "none") if _is_fused(self, x) else super().forward(x)


class GeluLinear(nn.Linear):
    """A linear layer and the GELU of its result.

    Args:
        approximate: ``tanh`` or ``none``, as of :func:`torch.nn.functional.gelu`.
    """

    def __init__(
        self, in_features: int, out_features: int, *, approximate: Literal["tanh", "none"]
    ) -> None:
        super().__init__(in_features, out_features)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        if _is_fused(self, x):
            return _fused(self, x, "gelu", self.approximate)
        return F.gelu(super().forward(x), approximate=self.approximate)


def _is_fused(layer: nn.Linear, x: Tensor) -> bool:
    return (
        x.dtype == layer.weight.dtype == torch.bfloat16  # not so under autocast, in training
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()  # the operation has no gradient
        and not torch.compiler.is_compiling()  # which fuses by itself
        and _has_fused()
    )


@cache
def _has_fused() -> bool:
    """True if this build of PyTorch has the operation, and this processor what it needs for bfloat16."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _fused(layer: nn.Linear, x: Tensor, activation: str, algorithm: str = "") -> Tensor:
    """The layer and its activation in one operation, which is the one that ``torch.compile`` emits."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(
        x, layer.weight, layer.bias, activation, [], algorithm
    )
    return out
