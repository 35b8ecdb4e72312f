"""Fixtures: tiny models in memory and on disk, and the recorded one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from star_model.checkpoints.native import load_model
from star_model.checkpoints.published import convert_published
from star_model.model import StarModel
from tests.star_model import golden
from tests.star_model.golden import Golden, OfficialFiles
from tests.star_model.tiny import build_tiny_model, write_tiny_model


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only get slower on more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_model() -> StarModel:
    """Weights by formula, text features by hash; see ``tests/star_model/tiny.py``."""
    return build_tiny_model()


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete native model directory with a tiny BERT; not to be written to."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def official_files(tmp_path_factory: pytest.TempPathFactory) -> OfficialFiles:
    """The recorded STAR as a download: transformer, VQVAE, CLIP folder; not to be written to."""
    return golden.STAR.write_official(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="session")
def var_files(tmp_path_factory: pytest.TempPathFactory) -> OfficialFiles:
    """The recorded VAR as a download: transformer, VQVAE; not to be written to."""
    return golden.VAR.write_official(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="session")
def golden_directory(
    official_files: OfficialFiles, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The recorded STAR, converted."""
    return convert(golden.STAR, official_files, tmp_path_factory.mktemp("golden") / "native")


@pytest.fixture(scope="session")
def var_directory(var_files: OfficialFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded VAR, converted."""
    return convert(golden.VAR, var_files, tmp_path_factory.mktemp("golden") / "native")


def convert(recorded: Golden, files: OfficialFiles, out: Path) -> Path:
    transformer, vqvae, clip = files
    convert_published(
        transformer=transformer, vqvae=vqvae, text_encoder=clip, out=out, preset=recorded.config
    )
    return out


@pytest.fixture(scope="session", params=golden.ALL, ids=lambda recorded: recorded.name)
def recorded(request: pytest.FixtureRequest) -> Golden:
    """Each recorded model in turn."""
    found: Golden = request.param
    return found


@pytest.fixture(scope="session")
def recorded_model(recorded: Golden, tmp_path_factory: pytest.TempPathFactory) -> StarModel:
    """It, written as a download, converted and loaded; a STAR with the recorded text features."""
    directory = tmp_path_factory.mktemp("recorded")
    model = load_model(
        convert(recorded, recorded.write_official(directory), directory / "native"),
        device="cpu",
        dtype="float32",
    )
    return (
        model
        if recorded.is_var
        else replace(model, text_encoder=golden.GoldenTextEncoder(recorded))
    )
