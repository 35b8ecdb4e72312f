"""What is said that a model can do, against what its engine does; for every family."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from star_model.capabilities import Capabilities, capabilities
from star_model.engine.editing import Edit, make_edit
from star_model.engine.engine import Engine
from star_model.errors import UnknownClassError
from star_model.families import infinity, star, switti, var
from star_model.families.registry import PRESETS, family_of
from star_model.model import StarModel
from star_model.sampling import Sampling
from tests.star_model.tiny import FAMILIES, build_tiny_model, tiny_config


@cache
def build(family: str) -> StarModel:
    return build_tiny_model(tiny_config(**FAMILIES[family]))


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> StarModel:
    return build(request.param)


def said_of(model: StarModel) -> Capabilities:
    config = model.config
    return capabilities(
        sampling=config.sampling,
        guidance=config.guidance,
        num_scales=len(config.schedule),
        sizes=config.sizes,
        num_classes=config.transformer.num_classes,
        has_vocabulary=model.reader is not None,
        can_encode=model.vqvae.can_encode,
    )


def paint(
    model: StarModel,
    *,
    negative: bool = False,
    edit: Edit | None = None,
    shape: int = 0,
    **more: float,
) -> Tensor:
    """One image of the model's own sampling parameters, but for those given."""
    engine = Engine(model, slots=1)
    prompts = ["1", "2"] if model.config.transformer.num_classes else ["a cat", "fog"]
    text, other = model.text_encoder.encode(prompts)
    sequence = engine.prepare(
        text,
        model.sampling_defaults.changed({"top_k": 1, **more}),
        seed=1,
        negative=other if negative else None,
        edit=edit,
        shape=shape,
    )
    while not sequence.done:
        engine.step([sequence])
    return engine.finish([sequence])[0]


def test_prompts_are_texts_or_classes(model: StarModel) -> None:
    if said_of(model).prompt == "text":
        assert model.text_encoder.encode(["anything at all"])
    else:
        with pytest.raises(UnknownClassError):
            model.text_encoder.encode(["anything at all"])


def test_it_edits(model: StarModel) -> None:
    assert said_of(model).editing
    height, width = model.config.size()
    image = torch.full((height, width, 3), 200, dtype=torch.uint8)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[: height // 2] = True
    painted = paint(model, edit=make_edit(model, image, mask))
    assert torch.equal(painted[~mask], image[~mask])
    assert not torch.equal(painted[mask], image[mask])


def test_what_has_no_encoder_does_not_edit() -> None:
    model = build_tiny_model()
    model.vqvae.encoder = torch.nn.Identity()
    assert not said_of(model).editing


@pytest.mark.parametrize("own", [0.0, 1.0, 4.0])
def test_a_negative_prompt_has_an_effect(model: StarModel, own: float) -> None:
    """As the request stands, or not: the model's own guidance decides."""
    sampling = model.sampling_defaults.changed({"guidance_scale": own})
    guided = replace(model, config=replace(model.config, sampling=sampling))
    changes = not torch.equal(paint(guided), paint(guided, negative=True))
    assert said_of(guided).negative_prompt == changes


def test_ratios_are_those_of_its_images(model: StarModel) -> None:
    ratios = said_of(model).aspect_ratios
    assert len(ratios) == len(model.config.schedules)
    for shape, ratio in enumerate(ratios):
        height, width, _ = paint(model, shape=shape).shape
        x, y = map(int, ratio.split(":"))
        assert width * y == height * x


def test_drafts_of_as_many_scales_and_no_more(model: StarModel) -> None:
    most = said_of(model).max_draft
    assert most > 0
    paint(model, draft=most)
    with pytest.raises(ValueError, match="draft"):
        paint(model, draft=most + 1)
    few = capabilities(
        sampling=Sampling(),
        guidance="rising",
        num_scales=2,
        sizes=[(8, 8)],
        num_classes=0,
        has_vocabulary=False,
        can_encode=True,
    )
    assert few.max_draft == 1


def test_the_published_shapes_have_the_published_ratios() -> None:
    said = capabilities(
        sampling=Sampling(),
        guidance="constant",
        num_scales=13,
        sizes=PRESETS["infinity-2b"].sizes,
        num_classes=0,
        has_vocabulary=False,
        can_encode=True,
    )
    assert said.aspect_ratios[:4] == ["1:1", "4:5", "3:4", "2:3"]
    assert said.aspect_ratios[-1] == "3:1"
    assert len(set(said.aspect_ratios)) == 15


# ---- licences --------------------------------------------------------------------------------------------


def test_licences_are_those_that_the_weights_publishers_state() -> None:
    families = {"star": star, "switti": switti, "infinity": infinity, "var": var}
    stated = {name: family_of(preset).license_of(name) for name, preset in PRESETS.items()}
    assert all(family_of(PRESETS[n]) is families[n.partition("-")[0]].FAMILY for n in stated)
    assert {name for name, license in stated.items() if license == "MIT"} == {
        "infinity-2b",
        "infinity-8b",
        "infinity-8b-512",
        *(f"var-d{depth}" for depth in (16, 20, 24, 30, 36)),
    }
    assert set(stated.values()) == {"MIT", None}
