"""Half precision where the machine is fast at it, and nowhere else.

On processors that do not multiply bfloat16, a product of such matrices takes fifty times as long as one of float32.
"""

from __future__ import annotations

import torch

from star_model.precision import has_fast_bfloat16


def fast_at_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies matrices of bfloat16 faster than those of float32."""
    return device.type != "cpu" or has_fast_bfloat16()


def autocast(device: torch.device) -> torch.autocast:
    """The context of a network's forward pass: products in bfloat16 where that is fast, else in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_at_bfloat16(device))
