"""The measured rate of finished images, from which ``Retry-After`` is computed."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from itertools import accumulate

_WINDOW = 64
_SHORTEST_WAIT, _LONGEST_WAIT = 1, 120


class ServiceRate:
    """The latest intervals between finished images while there was work.

    Args:
        seconds_per_image: estimate until the first image is measured.
    """

    def __init__(self, seconds_per_image: float = 1.0) -> None:
        self._guess = seconds_per_image
        self._intervals: deque[float] = deque(maxlen=_WINDOW)
        self._mark: float | None = None

    def busy(self, now: float) -> None:
        """Note that there is work to do from now on, and was none before."""
        self._mark = now

    def finished(self, now: float) -> None:
        """Note that an image is finished."""
        if self._mark is not None:
            self._intervals.append(now - self._mark)
        self._mark = now

    def seconds_until(self, images: int) -> float:
        """Estimate the seconds until this many more images are finished, from a random moment.

        The mean over the recent past, which is assumed to repeat: batched images finish together, so the next one
        may be far off while the one after it is not.

        Args:
            images: at least 1.
        """
        intervals = list(self._intervals) or [self._guess]
        total = sum(intervals)
        if not total:
            return 0.0
        rounds, rest = divmod(images - 1, len(intervals))
        ends = [0.0, *accumulate(intervals + intervals)]
        # A moment falls into an interval as often as that is long, and into the middle of it on average.
        mean = sum(
            interval * (interval / 2 + ends[i + 1 + rest] - ends[i + 1])
            for i, interval in enumerate(intervals)
        )
        return rounds * total + mean / total


def retry_after(seconds: float, draw: Callable[[], float] = random.random) -> int:
    """Return the ``Retry-After`` of a client that could be served after ``seconds``.

    Up to half of the time is added at random, so that clients refused together do not come back together.

    Args:
        seconds: the estimate.
        draw: uniform in ``[0, 1)``.

    Returns:
        whole seconds, 1 to 120.
    """
    spread = max(seconds, _SHORTEST_WAIT) * (1 + draw() / 2)
    return min(int(spread + draw()), _LONGEST_WAIT)
