"""Two real servers that the load tests share, each as a process with workers of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from star_model.config import TokenizerConfig
from tests.live_server import LiveServer, running_server
from tests.star_model.tiny import class_conditional, write_quick_model, write_tiny_model


@pytest.fixture(scope="session")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A tiny model, a few milliseconds an image, on two workers of four slots each."""
    directory = tmp_path_factory.mktemp("two_workers")
    model = write_tiny_model(directory / "model")
    with running_server(
        *("--model", str(model), "--workers", "2", "--slots", "4", "--queue-capacity", "1000"),
        *("--threads", "1", "--mode", "deterministic"),
        log=directory / "log",
    ) as server:
        yield server


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of classes that takes about a tenth of a second for an image, of 320 x 320 pixels of noise."""
    tokenizer = TokenizerConfig(
        vocab_size=96,
        latent_channels=8,
        base_channels=8,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        num_groups=4,
        patch_size=16,
    )
    transformer = replace(class_conditional()["transformer"], depth=12, num_heads=4)
    return write_quick_model(
        tmp_path_factory.mktemp("slow") / "model",
        patch_nums=(1, 2, 3, 5, 7, 10),
        tokenizer=tokenizer,
        transformer=transformer,
    )


@pytest.fixture(scope="session")
def slow_workers(
    slow_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """The slow model on two workers of four slots each, behind a queue of sixteen images."""
    with running_server(
        *("--model", str(slow_model), "--workers", "2", "--slots", "4", "--queue-capacity", "16"),
        *("--threads", "1", "--mode", "deterministic", "--restart-backoff-s", "0.1"),
        log=tmp_path_factory.mktemp("slow_workers") / "log",
    ) as server:
        yield server
