"""Fixtures: tiny models in memory and on disk, and the recorded one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from star_model.model import StarModel
from tests.star_model import golden
from tests.star_model.golden import Golden, OfficialFiles
from tests.star_model.recordings import Recordings
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
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """The recorded models, written, converted and loaded when they are asked for."""
    return Recordings(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="session")
def official_files(recordings: Recordings) -> OfficialFiles:
    """The recorded STAR as a download: transformer, VQVAE, CLIP folder; not to be written to."""
    return recordings.files(golden.STAR)


@pytest.fixture(scope="session")
def var_files(recordings: Recordings) -> OfficialFiles:
    """The recorded VAR as a download: transformer, VQVAE; not to be written to."""
    return recordings.files(golden.VAR)


@pytest.fixture(scope="session")
def golden_directory(recordings: Recordings) -> Path:
    """The recorded STAR, converted."""
    return recordings.directory(golden.STAR)


@pytest.fixture(scope="session", params=golden.ALL, ids=lambda recorded: recorded.name)
def recorded(request: pytest.FixtureRequest) -> Golden:
    """Each recorded model in turn."""
    found: Golden = request.param
    return found


@pytest.fixture(scope="session")
def recorded_model(recorded: Golden, recordings: Recordings) -> StarModel:
    """It, converted and loaded; a text-conditional one with the recorded text features."""
    return recordings.model(recorded)
