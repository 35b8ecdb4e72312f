from __future__ import annotations

import pytest

import star_model

PUBLIC = {
    "PRESETS",
    "ClassConditioning",
    "Edit",
    "Engine",
    "ImageSequence",
    "ModelConfig",
    "Sampling",
    "ScaleSchedule",
    "StarModel",
    "TextConditioning",
    "errors",
    "generate",
    "generate_many",
    "load_model",
    "make_edit",
    "place_on_canvas",
    "resolve_model",
    "save_model",
}


def test_public_names() -> None:
    assert set(star_model.__all__) == PUBLIC
    assert len(star_model.__all__) == len(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_is_there(name: str) -> None:
    assert getattr(star_model, name) is not None


def test_others_are_not() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Painter'"):
        _ = star_model.Painter


def test_errors_are_one_family() -> None:
    errors = [e for e in vars(star_model.errors).values() if isinstance(e, type)]
    assert len(errors) == 9
    assert all(issubclass(e, star_model.errors.StarError) for e in errors)
    assert issubclass(star_model.errors.ConfigError, ValueError)
    assert issubclass(star_model.errors.UnsafeCheckpointError, star_model.errors.CheckpointError)
