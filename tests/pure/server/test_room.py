"""Whether a model has room beside others: what is left, by the system and by control groups, and the refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from server.settings import Settings
from server.worker.room import bytes_left, bytes_needed, require_room
from star_model.errors import ConfigError
from tests.star_model.tiny import write_tiny_model

CPU = torch.device("cpu")
GIB = 2**30


def system(root: Path, files: dict[str, str]) -> Path:
    """A file system as the kernel would show it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def meminfo(available: int) -> dict[str, str]:
    return {
        "proc/meminfo": f"MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\n"
    }


def group(limit: str, used: int, inactive: int) -> dict[str, str]:
    folder = "sys/fs/cgroup/pod"
    return {
        "proc/self/cgroup": "0::/pod\n",
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 1\ninactive_file {inactive}\nactive_file 1\n",
    }


@pytest.mark.parametrize(
    ("files", "left"),
    [
        (meminfo(3 * GIB), 3 * GIB),
        (meminfo(3 * GIB) | group(str(2 * GIB), GIB, GIB // 2), 3 * GIB // 2),
        (meminfo(GIB) | group(str(9 * GIB), GIB, 0), GIB),
        (meminfo(3 * GIB) | group("max", GIB, 0), 3 * GIB),
        (meminfo(3 * GIB) | group(str(GIB), 2 * GIB, 0), 0),
        ({}, None),
    ],
)
def test_what_is_left(tmp_path: Path, files: dict[str, str], left: int | None) -> None:
    assert bytes_left(CPU, system(tmp_path, files)) == left


def test_a_model_that_does_not_fit_is_refused_with_both_numbers(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    settings = Settings(model=[str(model)], slots=4).for_worker()
    needed = bytes_needed(model, CPU, settings)
    weights = sum(file.stat().st_size for file in model.rglob("*.safetensors"))
    assert weights < needed < 100 * weights
    require_room(model, "cpu", settings=settings, root=system(tmp_path, meminfo(2 * needed)))
    with pytest.raises(ConfigError, match=r"for 4 slots .* the machine has 0\.0 GiB left; lower"):
        require_room(model, "cpu", settings=settings, root=system(tmp_path, meminfo(1024)))


def test_slots_count(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    few, many = (
        bytes_needed(model, CPU, Settings(model=[str(model)], slots=slots).for_worker())
        for slots in (2, 20)
    )
    assert many > few
