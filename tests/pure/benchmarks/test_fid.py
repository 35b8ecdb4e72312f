"""What the FID says when what it needs is not there, or is something else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks.quality.scores import LAST_LAYER, MissingError, fid


def test_other_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Package:
        calculate_metrics = None

    monkeypatch.setitem(sys.modules, "torch_fidelity", Package)
    file = tmp_path / "inception_v3.pth"
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, file)
    with pytest.raises(MissingError, match=r"inception_v3\.pth holds other weights") as raised:
        fid(tmp_path, tmp_path, file, torch.device("cpu"))
    assert str(LAST_LAYER) in str(raised.value)
    with pytest.raises(MissingError, match="FID needs --inception FILE"):
        fid(tmp_path, tmp_path, None, torch.device("cpu"))


def test_a_torchvision_of_another_build_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch_fidelity.py").write_text(
        'raise RuntimeError("operator torchvision::nms does not exist")\n', "utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch_fidelity", raising=False)
    with pytest.raises(
        MissingError, match=r"built for the PyTorch that is installed.*nms does not"
    ):
        fid(tmp_path, tmp_path, tmp_path, torch.device("cpu"))
