"""Muon: momentum whose matrices are orthogonalized before they are applied (Keller Jordan, 2024).

Short trainings gain the most from it; what it was worth here is in ``docs/training.md``. Convolution kernels count as
matrices of (output channels, input channels x height x width), which ``torch.optim.Muon`` does not take.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from star_model.networks.precision import is_fast_at_bfloat16


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly orthogonal matrices (N, rows, columns) with the singular vectors of ``matrices``.

    A quintic Newton-Schulz iteration that pushes all singular values towards 1; in bfloat16 where that is fast.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16() if is_fast_at_bfloat16(matrices.device) else matrices.float()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return result


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions; all of one shape are orthogonalized together.

    Args:
        params: weights (rows, ...), at least two dimensions.
        lr: step size; an update has about the spectral norm ``lr * sqrt(max(1, rows / columns))``.
        momentum: of the Nesterov kind.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure is ever called
        """Apply the gradients; parameters without one are left alone."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for shape, params in by_shape.items():
                self._update(params, shape, group)

    def _update(self, params: list[Tensor], shape: torch.Size, group: dict[str, Any]) -> None:
        gradients = [p.grad for p in params if p.grad is not None]
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        rows, columns = shape[0], shape[1:].numel()
        updates = orthogonalize(torch.stack([m.reshape(rows, columns) for m in ahead]))
        size = group["lr"] * max(1.0, rows / columns) ** 0.5
        for p, update in zip(params, updates, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.view(shape), alpha=-size)
