"""How many threads a worker gets: on any machine, in any container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.worker.processors import available_processors, threads_for


def machine(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")
    return root


@pytest.mark.parametrize(
    ("cores", "workers", "threads"),
    [(1, 1, 1), (2, 1, 2), (2, 4, 1), (8, 1, 8), (8, 2, 4), (64, 1, 16), (64, 8, 8), (8, 0, 8)],
)
def test_a_share_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: int
) -> None:
    machine(monkeypatch, cores)
    assert threads_for(cores, workers, tmp_path) == threads


def test_no_more_than_pytorch_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8)  # of which half are the other halves of cores
    assert threads_for(4, 1, tmp_path) == 4


@pytest.mark.parametrize(
    ("quota", "processors"),
    [
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("50000 100000", 1),
        ("max 100000", 64),
        ("nonsense", 64),
    ],
)
def test_the_limit_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, processors: int
) -> None:
    machine(monkeypatch, 64)
    write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota + "\n"})
    assert available_processors(tmp_path) == processors


def test_the_limit_of_any_group_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 64)
    files = {
        "proc/self/cgroup": "0::/kubepods/pod1/server\n",
        "sys/fs/cgroup/kubepods/pod1/server/cpu.max": "max 100000",
        "sys/fs/cgroup/kubepods/pod1/cpu.max": "400000 100000",
        "sys/fs/cgroup/kubepods/cpu.max": "3200000 100000",
        "sys/fs/cpu.max": "100000 100000",  # not a control group
    }
    assert available_processors(write(tmp_path, files)) == 4


@pytest.mark.parametrize(("quota", "processors"), [("300000", 3), ("-1", 64)])
def test_the_older_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, processors: int
) -> None:
    machine(monkeypatch, 64)
    files = {
        "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n",
        # Seen from inside the container, its group is at the top, though its path is still the host's.
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": quota + "\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    assert available_processors(write(tmp_path, files)) == processors


def test_where_there_are_no_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 3)
    assert available_processors(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_processors(tmp_path) == 1


def test_this_machine() -> None:
    assert 1 <= available_processors() <= (os.cpu_count() or 1)
