"""The conversion is measured on files that are laid out like the published ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch

from benchmarks import bench_convert
from benchmarks.bench_convert import convert, star_config, write_files
from star_model.checkpoints.native import read_config
from star_model.checkpoints.pth import read_pth
from star_model.config import TokenizerConfig


def test_files_are_written_converted_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_convert, "VOCABULARY", 300)
    config = replace(star_config(1), tokenizer=TokenizerConfig(base_channels=32))
    write_files(tmp_path, config, text_layers=1)
    content = torch.load(tmp_path / "star.pth", weights_only=True)
    weights = content["trainer"]["var_wo_ddp"]
    assert len(content["trainer"]["var_opt"]["state"]) == len(weights)
    assert read_pth(tmp_path / "star.pth").keys() == weights.keys()
    results: SimpleQueue[dict[str, Any]] = SimpleQueue()
    convert(tmp_path, config, limit_mib=0, results=results)
    assert read_config(tmp_path / "native") == config
    measured = results.get()
    assert measured["peak_mib"] >= measured["before_mib"] > 0
