"""Networks without memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from star_model.networks.meta import on_meta
from star_model.networks.tokenizers import build_tokenizer
from star_model.networks.transformer import StarTransformer
from tests.star_model.tiny import tiny_config


def test_weights_are_on_meta() -> None:
    with on_meta():
        layer = nn.Linear(3, 4)
    assert layer.weight.is_meta
    assert layer.weight.shape == (4, 3)


def test_a_network_has_the_tensors_that_it_has_elsewhere() -> None:
    config = tiny_config()
    with on_meta():
        networks = StarTransformer(config), build_tokenizer(config)
    for meta, real in zip(
        networks, (StarTransformer(config), build_tokenizer(config)), strict=True
    ):
        assert {n: (t.shape, t.dtype) for n, t in meta.state_dict().items()} == {
            n: (t.shape, t.dtype) for n, t in real.state_dict().items()
        }
        assert all(p.is_meta for p in meta.parameters())


def test_initialisation_is_back_afterwards() -> None:
    with pytest.raises(RuntimeError, match="stop"), on_meta():
        raise RuntimeError("stop")
    weight = torch.zeros(100)
    nn.init.ones_(weight)
    assert weight.sum() == 100


def test_pytorchs_compiler_is_not_imported() -> None:
    """Its import takes two seconds, a third of what ``star-server plan`` takes."""
    code = """
import sys
from star_model.checkpoints.native import tensor_shapes
from star_model.families.registry import FAMILIES
for family in FAMILIES:
    tensor_shapes(family.presets[0])
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
