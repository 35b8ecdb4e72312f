"""``star_model.generate``: one call from a prompt to an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from star_model import Engine, StarModel, generate, generate_many, load_model, make_edit
from star_model.errors import ConfigError
from star_model.sampling import SEEDS


def pixels(image: Image.Image) -> torch.Tensor:
    """uint8 (H, W, 3)."""
    return torch.from_numpy(np.array(image))


def by_engine(model: StarModel, prompt: str, seed: int, **changes: float) -> torch.Tensor:
    """The same image through the engine's own interface."""
    engine = Engine(model, slots=1)
    sampling = model.sampling_defaults.changed(changes)
    sequence = engine.prepare(model.encode_prompt(prompt), sampling, seed=seed)
    while not sequence.done:
        engine.step([sequence])
    return engine.finish([sequence])[0]


def test_it_is_the_engines_image_with_the_models_defaults(tiny_model: StarModel) -> None:
    image = generate(tiny_model, "a fox", seed=3)
    assert (image.mode, image.size) == ("RGB", (28, 28))
    assert torch.equal(pixels(image), by_engine(tiny_model, "a fox", 3))
    assert not torch.equal(pixels(image), pixels(generate(tiny_model, "a fox", seed=4)))


def test_sampling_and_negative_prompt_are_used(tiny_model: StarModel) -> None:
    plain = pixels(generate(tiny_model, "a fox", seed=3))
    sampling = tiny_model.sampling_defaults.changed({"top_k": 1})
    greedy = pixels(generate(tiny_model, "a fox", seed=3, sampling=sampling))
    assert torch.equal(greedy, by_engine(tiny_model, "a fox", 3, top_k=1))
    away = pixels(generate(tiny_model, "a fox", seed=3, negative_prompt="red"))
    assert not torch.equal(plain, greedy)
    assert not torch.equal(plain, away)


def test_an_edit_keeps_what_is_outside_its_mask(tiny_model: StarModel) -> None:
    before = generate(tiny_model, "a fox", seed=3)
    mask = torch.zeros(28, 28, dtype=torch.bool)
    mask[8:20, 8:20] = True
    edit = make_edit(tiny_model, pixels(before), mask, feather=False)
    after = pixels(generate(tiny_model, "a crab", seed=5, edit=edit))
    changed = (after != pixels(before)).any(-1)
    assert changed.any()
    assert not (changed & ~mask).any()


def test_each_of_many_is_the_one_alone(tiny_model: StarModel) -> None:
    prompts = ["a fox", "a crab", "a bus", "a tree", "a key"]
    many = list(generate_many(tiny_model, prompts, seed=7, batch=2))
    assert len(many) == 5
    for i, (prompt, image) in enumerate(zip(prompts, many, strict=True)):
        assert torch.equal(pixels(image), pixels(generate(tiny_model, prompt, seed=7 + i)))


def test_prompts_are_read_as_they_are_needed(tiny_model: StarModel) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "a fox"

    images = generate_many(tiny_model, endless(), batch=2)
    assert next(images).size == next(images).size == (28, 28)


def test_a_mistake_is_named_before_anything_runs(tiny_model: StarModel) -> None:
    with pytest.raises(ConfigError, match=f"seed must be from 0 to {SEEDS - 1}, got -1"):
        generate(tiny_model, "a fox", seed=-1)
    unguided = tiny_model.sampling_defaults.changed({"guidance_scale": 0.0})
    with pytest.raises(ConfigError, match="a negative prompt needs guidance"):
        generate_many(tiny_model, ["a fox"], negative_prompt="red", sampling=unguided)
    with pytest.raises(ConfigError, match=r"size must be one of \[\(28, 28\)\]"):
        generate(tiny_model, "a fox", size=(512, 512))
    with pytest.raises(ValueError, match="slots must be at least 1"):
        generate_many(tiny_model, ["a fox"], batch=0)


def test_what_is_left_out_of_a_prompt_is_a_warning(tiny_directory: Path) -> None:
    model = load_model(tiny_directory, device="cpu")
    images = generate_many(model, ["apple " * 20])
    calls: list[Callable[[], object]] = [
        lambda: generate(model, "apple " * 20),
        lambda: next(images),
    ]
    for call in calls:
        with pytest.warns(UserWarning, match="this end of the prompt was left out") as caught:
            call()
        assert caught[0].filename == __file__  # the line to look at is the caller's
