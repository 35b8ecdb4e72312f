"""When the limit on spinning is set; that each entry point does so is tested in ``tests/processes``."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import pytest

from star_model.threads import SPIN_COUNT, limit_spinning


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch, and without a choice of the user's or ours."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    # First set, so that what a test does to a variable that was absent is undone too.
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_the_limit_is_set_once() -> None:
    assert limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == str(SPIN_COUNT)
    assert not limit_spinning()


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
@pytest.mark.parametrize("value", ["", "100000"])
def test_a_users_choice_is_kept(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert not limit_spinning()
    assert dict(os.environ) == before


def test_nothing_is_set_once_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    assert not limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ
