"""Linear layers in bfloat16 on a CPU, in one operation, against what PyTorch computes in several."""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star_model.networks import linear
from star_model.networks.linear import GeluLinear, Linear

needs_bfloat16 = pytest.mark.skipif(
    not linear._has_fused(), reason="this processor has no bfloat16 that oneDNN uses"
)


def exact(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer in float32, on the values that its weights have in bfloat16."""
    return nn.Linear.forward(deepcopy(layer).float(), x.float())


def assert_rounded(found: Tensor, expected: Tensor) -> None:
    """Compare with an exact result up to one rounding to bfloat16, which has 8 digits."""
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=2**-8)


@needs_bfloat16
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 24), (1, 1, 24), (2, 9, 24)])
@torch.inference_mode()
def test_a_layer_rounds_once(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(24, 40, bias=bias).bfloat16(), torch.randn(shape).bfloat16()
    assert linear._is_fused(layer, x)
    assert_rounded(layer(x), exact(layer, x))


@needs_bfloat16
@pytest.mark.parametrize("approximate", ["tanh", "none"])
@torch.inference_mode()
def test_its_gelu_rounds_no_second_time(approximate: Literal["tanh", "none"]) -> None:
    torch.manual_seed(0)
    layer = GeluLinear(24, 40, approximate=approximate).bfloat16()
    x = 3 * torch.randn(5, 24).bfloat16()
    assert_rounded(layer(x), F.gelu(exact(layer, x), approximate=approximate))


@needs_bfloat16
@torch.inference_mode()
def test_a_view_is_read_as_it_is() -> None:
    torch.manual_seed(0)
    layer, x = Linear(24, 40).bfloat16(), torch.randn(4, 5, 24).bfloat16()
    torch.testing.assert_close(layer(x[::2]), layer(x[::2].contiguous()), rtol=0, atol=0)
    torch.testing.assert_close(
        layer(x.transpose(0, 1)), layer(x.transpose(0, 1).contiguous()), rtol=0, atol=0
    )


@pytest.mark.parametrize("layer", [Linear(8, 6), GeluLinear(8, 6, approximate="tanh")])
def test_float32_is_what_pytorch_computes(layer: nn.Linear) -> None:
    x = torch.randn(2, 3, 8)
    plain = F.linear(x, layer.weight, layer.bias)
    expected = F.gelu(plain, approximate="tanh") if isinstance(layer, GeluLinear) else plain
    with torch.inference_mode():
        assert torch.equal(layer(x), expected)


def test_gradients_flow_in_bfloat16() -> None:
    layer = GeluLinear(8, 6, approximate="tanh").bfloat16()
    layer(torch.randn(2, 8).bfloat16()).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("layer", [Linear(8, 6), GeluLinear(8, 6, approximate="tanh")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_autocast_takes_weights_in_float32(layer: nn.Linear, dtype: torch.dtype) -> None:
    """As the steps of training that need no gradients do."""
    x = torch.randn(2, 8).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(x.float()), rtol=2**-5, atol=2**-5)


def test_the_parameters_are_those_of_a_plain_layer() -> None:
    plain = nn.Linear(8, 6)
    for layer in (Linear(8, 6), GeluLinear(8, 6, approximate="none")):
        layer.load_state_dict(plain.state_dict())
        assert torch.equal(layer.weight, plain.weight)


@torch.inference_mode()
def test_a_processor_without_it_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = GeluLinear(24, 40, approximate="tanh").bfloat16(), torch.randn(5, 24).bfloat16()
    monkeypatch.setattr(linear, "_has_fused", lambda: False)
    found = layer(x)
    assert found.dtype == torch.bfloat16
    expected = F.gelu(exact(layer, x), approximate="tanh")
    torch.testing.assert_close(found.float(), expected, rtol=2**-6, atol=2**-6)
