"""The crop condition of Switti: a vector made of the size and the place of a training picture's crop.

Training told the network how a picture had been scaled and cropped. A generated image is always whole, so the vector is
a constant of the model, computed from its weights once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

WHOLE_PICTURE = (512.0, 512.0, 0.0, 0.0)
"""Height, width, top and left: what the published pipeline gives at every resolution."""


class CropCondition(nn.Module):
    """Sines and cosines of the four values at learnt frequencies, then a linear layer: a vector (C,).

    Weights and result are in float32, whatever the type of the rest of the network: an angle reaches 13,000, and in
    bfloat16 it would be noise.
    """

    _frozen: Tensor | None = None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(nn.init.normal_(torch.empty(width // 8)))
        self.projection = nn.Linear(width, width)
        self.register_load_state_dict_post_hook(_thaw)  # type: ignore[no-untyped-call]

    def embedding(self) -> Tensor:
        """For each of the four values its sines, then its cosines: (C,)."""
        values = torch.tensor(WHOLE_PICTURE, device=self.frequencies.device)
        angles = torch.outer(values, self.frequencies.float()) * (2 * math.pi)  # (4, C / 8)
        return torch.cat([angles.sin(), angles.cos()], dim=1).flatten()

    def freeze(self) -> None:
        """Cache the vector; evaluation mode uses it."""
        self._frozen = self.compute()

    def compute(self) -> Tensor:
        """The vector (C,), from the weights."""
        weight, bias = self.projection.weight.float(), self.projection.bias.float()
        return nn.functional.linear(self.embedding(), weight, bias)

    def forward(self) -> Tensor:
        return self.compute() if self.training or self._frozen is None else self._frozen


def _thaw(crop: CropCondition, _: object) -> None:
    """Drop the cache: the weights that it was computed from have just been replaced."""
    crop._frozen = None
