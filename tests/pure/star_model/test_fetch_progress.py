"""Progress of downloads as sentences."""

from __future__ import annotations

import pytest

from star_model.checkpoints.fetch_progress import progress_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("star_model.checkpoints.fetch_progress.time.monotonic", lambda: now[0])
    return now


def test_a_long_download_is_reported_every_ten_seconds(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    bar = progress_of("star.pth", said.append)(
        total=20_600_000_000, unit="B", unit_scale=True, name="huggingface_hub.get", disable=True
    )
    for seconds in range(26):
        clock[0] = 100.0 + seconds
        bar.update(100_000_000)
        bar.refresh()
    bar.close()
    assert said == [
        "fetching star.pth: 1,100 of 20,600 MB",
        "fetching star.pth: 2,100 of 20,600 MB",
    ]
    assert capfd.readouterr().err == ""


def test_a_count_of_files_is_not_reported(clock: list[float]) -> None:
    said: list[str] = []
    bar = progress_of("CLIP", said.append)(total=3, unit="it")
    clock[0] = 200.0
    bar.update(3)
    bar.refresh()
    bar.close()
    assert said == []
