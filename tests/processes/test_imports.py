"""Modules that a fresh Python loads; which module may import which is tested in ``test_architecture``."""

from __future__ import annotations

import subprocess
import sys

import server
from tests.live_server import ROOT


def loaded_by(statement: str) -> set[str]:
    """The top-level packages that a fresh Python has loaded after ``statement``."""
    return {module.partition(".")[0] for module in modules_after(statement)}


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh Python has loaded after ``statement``."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_the_app_and_the_command_line_start_without_torch() -> None:
    loaded = loaded_by("import server.app, server.commands.cli")
    assert not loaded & {"torch", "transformers"}
    assert "server" in loaded


def test_the_app_starts_without_the_sdk_of_traces() -> None:
    loaded = modules_after("import server.app, server.commands.cli")
    assert not {m for m in loaded if m.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))}


def test_a_models_description_is_read_without_torch() -> None:
    modules = "star_model, star_model.errors, star_model.config, star_model.scales"
    assert not loaded_by(f"import {modules}") & {"torch", "transformers"}


def test_the_libraries_of_a_few_models_are_loaded_with_them() -> None:
    everything = loaded_by("from star_model import *; import star_model.checkpoints.published")
    assert not everything & {"transformers", "huggingface_hub", "xformers"}
    assert "torch" in everything


def test_the_public_names() -> None:
    assert server.__all__ == ["__version__"]
