"""The adapter between the loop and the engine, around a stub of the engine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from server.worker.star_engine import StarEngine


def star_engine(device: str) -> StarEngine:
    model = SimpleNamespace(device=torch.device(device))
    return StarEngine(SimpleNamespace(model=model))  # type: ignore[arg-type]


def test_memory_is_that_of_the_engines_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat's thread has a current device of its own: the first, whichever the engine is on."""
    asked: list[object] = []

    def allocated(device: object = None) -> int:
        asked.append(device)
        return 5

    def reserved(device: object = None) -> int:
        asked.append(device)
        return 7

    monkeypatch.setattr(torch.cuda, "memory_allocated", allocated)
    monkeypatch.setattr(torch.cuda, "memory_reserved", reserved)
    assert star_engine("cuda:1").memory() == (5, 7)
    assert asked == [torch.device("cuda:1")] * 2


def test_a_cpu_has_no_device_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: object = None) -> int:
        raise AssertionError("asked for the memory of a GPU")

    monkeypatch.setattr(torch.cuda, "memory_allocated", refuse)
    monkeypatch.setattr(torch.cuda, "memory_reserved", refuse)
    assert star_engine("cpu").memory() == (0, 0)


@pytest.mark.parametrize(
    ("error", "diagnosis"),
    [
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError(), "out_of_memory"),
        (torch.AcceleratorError("an illegal memory access"), "fatal"),
        (RuntimeError("shapes differ"), "error"),
    ],
)
def test_errors_are_told_apart(error: Exception, diagnosis: str) -> None:
    assert star_engine("cpu").diagnose(error) == diagnosis
