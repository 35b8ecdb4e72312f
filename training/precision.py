"""Half precision where the machine is fast at it, and nowhere else.

On processors that do not multiply bfloat16, a product of such matrices takes fifty times as long as one of float32.
"""

from __future__ import annotations

import torch

from star_model.networks.precision import is_fast_at_bfloat16


def autocast(device: torch.device) -> torch.autocast:
    """The context of a network's forward pass: products in bfloat16 where that is fast, else in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_fast_at_bfloat16(device))
