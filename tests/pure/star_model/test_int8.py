"""Weights stored in eight bits, one scale a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from star_model.checkpoints.int8 import is_quantizable, quantize_rows, restore_rows
from star_model.checkpoints.native import load_model
from star_model.checkpoints.saving import save_model
from star_model.errors import CheckpointError
from star_model.model import StarModel
from star_model.networks.quantizer import with_codebook
from tests.star_model.formula import normal
from tests.star_model.tiny import build_tiny_model, tiny_bert


@pytest.fixture(scope="module")
def model() -> StarModel:
    return build_tiny_model(text_encoder=tiny_bert())


@pytest.fixture
def directory(model: StarModel, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model", dtype="int8")
    return tmp_path / "model"


@pytest.mark.parametrize("shape", [(5, 300), (6, 8, 3, 3)])
def test_a_row_is_off_by_half_a_step_at_most(shape: tuple[int, ...]) -> None:
    weight = normal("weight", shape) * torch.logspace(-4, 2, shape[0]).view(
        -1, *[1] * (len(shape) - 1)
    )
    integers, scale = quantize_rows(weight)
    assert (integers.dtype, integers.shape, scale.shape) == (torch.int8, weight.shape, shape[:1])
    assert integers.flatten(1).abs().amax(1).eq(127).all()
    error = (restore_rows(integers, scale) - weight).abs().flatten(1).amax(1)
    assert (error <= 0.5001 * scale).all()
    assert (error > 0.3 * scale).all()


def test_a_row_of_zeros_stays_zero() -> None:
    weight = torch.zeros(2, 100)
    weight[1] = normal("row", (100,))
    assert restore_rows(*quantize_rows(weight))[0].eq(0).all()


def test_only_large_matrices_with_long_rows() -> None:
    assert is_quantizable(torch.empty(256, 64))
    assert is_quantizable(torch.empty(32, 64, 3, 3))
    assert not is_quantizable(torch.empty(255, 64))  # small
    assert not is_quantizable(torch.empty(4096, 16))  # a codebook
    assert not is_quantizable(torch.empty(1, 256, 512))  # positions
    assert not is_quantizable(torch.empty(2**15))


def test_a_model_is_smaller_and_nearly_the_same(model: StarModel, directory: Path) -> None:
    file = directory / "transformer.safetensors"
    stored = load_file(file)
    large = {n for n, t in stored.items() if t.dtype == torch.int8}
    assert large == {f"blocks.{i}.feed_forward.fc{j}.weight" for i in (0, 1) for j in (1, 2)}
    assert {stored[n + ".scale"].dtype for n in large} == {torch.float32}
    rest = {t.dtype for n, t in stored.items() if n not in large and not n.endswith(".scale")}
    assert rest == {torch.float16}
    loaded = load_model(directory, device="cpu", dtype="float32", verify=True)
    for network in ("transformer", "vqvae"):
        weights = getattr(model, network).state_dict()
        for name, tensor in getattr(loaded, network).state_dict().items():
            assert tensor.dtype == torch.float32
            off = (tensor - weights[name]).abs().max() / weights[name].abs().max()
            assert off < (0.005 if name in large else 0.001), name
    assert torch.equal(
        with_codebook(loaded.vqvae.quantizer).codebook.weight,
        with_codebook(model.vqvae.quantizer).codebook.weight.half().float(),
    )


def test_saving_what_was_loaded_changes_nothing(directory: Path, tmp_path: Path) -> None:
    save_model(
        load_model(directory, device="cpu", dtype="float32"), tmp_path / "again", dtype="int8"
    )
    before, after = (
        load_file(d / "transformer.safetensors") for d in (directory, tmp_path / "again")
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before if before[n].dtype == torch.int8)


def without_scale(tensors: dict[str, Tensor], name: str) -> None:
    del tensors[name + ".scale"]


def with_one_scale(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name + ".scale"] = torch.ones(1)


def with_whole_scales(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name + ".scale"] = tensors[name + ".scale"].int()


def as_float(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = tensors[name].float()


def as_int16(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = tensors[name].short()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_scale, r"\.scale is missing"),
        (with_one_scale, r"\.scale has shape \(1,\), expected \(\d+,\)"),
        (with_whole_scales, r"\.scale has type I32, not a float"),
        (as_float, r"\.scale is unexpected"),
        (as_int16, r"\.scale is unexpected"),
    ],
)
def test_a_wrong_file_is_named(
    directory: Path, change: Callable[[dict[str, Tensor], str], None], message: str
) -> None:
    file = directory / "transformer.safetensors"
    tensors = load_file(file)
    change(tensors, next(n for n, t in tensors.items() if t.dtype == torch.int8))
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=rf"transformer\.safetensors: tensor \S+{message}"):
        load_model(directory, device="cpu")
