from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from star_model.sampling import SEEDS, Sampling, Seed


def test_limits_are_allowed() -> None:
    Sampling(guidance_scale=0, top_k=0, top_p=0)
    Sampling(guidance_scale=100, top_k=1_000_000, top_p=1, smooth_scales=10**9)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("guidance_scale", math.nan),
        ("guidance_scale", math.inf),
        ("guidance_scale", -0.1),
        ("guidance_scale", 100.1),
        ("guidance_scale", "4"),
        ("guidance_scale", True),
        ("top_k", -1),
        ("top_k", 1_000_001),
        ("top_k", 5.0),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("smooth_scales", -1),
        ("topk", 5),
    ],
)
def test_each_parameter_is_checked(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"(?m)^{name}$"):
        Sampling(**{name: value})


def test_changed_replaces_what_is_given() -> None:
    model = Sampling(guidance_scale=1, top_k=7)
    given = {"top_k": 9, "top_p": None, "prompt": "a cat"}
    assert model.changed(given) == Sampling(guidance_scale=1.0, top_k=9, top_p=0.8)
    assert model.changed({}) == model
    with pytest.raises(ValidationError, match="top_k"):
        model.changed({"top_k": -1})


def test_every_parameter_is_described() -> None:
    assert all(field.description for field in Sampling.model_fields.values())


def test_it_travels_between_processes_and_can_be_a_key() -> None:
    sampling = Sampling(top_k=3)
    assert pickle.loads(pickle.dumps(sampling)) == sampling
    assert {sampling: 1}[Sampling(top_k=3)] == 1


@pytest.mark.parametrize(
    ("seed", "valid"), [(0, True), (SEEDS - 1, True), (-1, False), (SEEDS, False)]
)
def test_seeds(seed: int, valid: bool) -> None:
    adapter: TypeAdapter[int] = TypeAdapter(Seed)
    if valid:
        assert adapter.validate_python(seed) == seed
    else:
        with pytest.raises(ValidationError):
            adapter.validate_python(seed)
