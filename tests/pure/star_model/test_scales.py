from __future__ import annotations

import numpy as np
import pytest

from star_model.scales import ScaleSchedule

STAR_512 = ScaleSchedule((1, 2, 3, 4, 6, 9, 13, 18, 24, 32))


def test_star_512() -> None:
    assert len(STAR_512) == 10
    assert STAR_512.num_tokens == 2240
    assert STAR_512.cached_tokens == 2240 - 1024
    assert STAR_512.last_size == (32, 32)
    assert STAR_512.lengths[:4] == (1, 4, 9, 16)
    assert STAR_512.offsets == (0, 1, 5, 14, 30, 66, 147, 316, 640, 1216, 2240)


def test_progress() -> None:
    assert [ScaleSchedule((1, 2, 4)).progress(k) for k in range(3)] == [0.0, 0.5, 1.0]


def test_the_published_phi() -> None:
    """Scales 2 and 7 of ten are as near to one tick as to the next, up to rounding."""
    assert [STAR_512.phi_index(k, 4) for k in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("num_phi", [1, 2, 3, 4, 6, 10])
@pytest.mark.parametrize("scales", [2, 6, 7, 10, 13, 14, 19])
def test_phi_is_that_of_the_published_code(num_phi: int, scales: int) -> None:
    margin = 1 / 3 / num_phi if num_phi == 4 else 1 / 2 / num_phi
    ticks = np.linspace(margin, 1 - margin, num_phi)
    schedule = ScaleSchedule(tuple(range(1, scales + 1)))
    for scale in range(scales):
        assert schedule.phi_index(scale, num_phi) == np.argmin(np.abs(ticks - scale / (scales - 1)))


def test_any_number_of_phi() -> None:
    assert [STAR_512.phi_index(k, 1) for k in range(10)] == [0] * 10
    assert [STAR_512.phi_index(k, 2) for k in range(10)] == [0] * 5 + [1] * 5
    assert [STAR_512.phi_index(k, 10) for k in range(10)] == list(range(10))


def test_sides_may_repeat() -> None:
    schedule = ScaleSchedule((1, 2, 4, 4, 4))
    assert schedule.lengths == (1, 4, 16, 16, 16)
    assert schedule.offsets == (0, 1, 5, 21, 37, 53)
    assert (schedule.last_size, schedule.cached_tokens) == ((4, 4), 37)
    assert schedule.labels == ("1x1", "2x2", "4x4", "4x4 #2", "4x4 #3")


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((), "at least two scales"),
        ((1,), "at least two scales"),
        ((2, 4), "start with 1"),
        ((1, 3, 2), "must not decrease"),
        ((1, 2, 2, 1), "must not decrease"),
    ],
)
def test_bad_schedules_are_refused(sides: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScaleSchedule(sides)
