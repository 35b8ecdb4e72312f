"""Seconds of named stages over repeats, and what is quoted of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


class Stopwatch:
    """Seconds of each named stage, over repeats.

    Args:
        device: waited for before and after each stage, so that its work is counted where it was asked for.
        clock: seconds; ``time.process_time`` counts this process's alone, on a CPU that others use too.
    """

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.device = device
        self.clock = clock
        self.seconds: dict[str, list[float]] = {}

    def time(self, stage: str, work: Callable[[], T]) -> T:
        """Run ``work`` and note how long it took."""
        self._wait()
        started = self.clock()
        result = work()
        self._wait()
        self.seconds.setdefault(stage, []).append(self.clock() - started)
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def medians(self) -> dict[str, float]:
        """Median milliseconds of each stage."""
        return {stage: 1000 * statistics.median(s) for stage, s in self.seconds.items()}

    def ratio(self, numerator: str, denominator: str) -> float:
        """Median, over repeats, of the ratio of two stages that were timed in turn.

        The speed of a shared machine drifts; two neighbours in time saw nearly the same machine.
        """
        pairs = zip(self.seconds[numerator], self.seconds[denominator], strict=True)
        return statistics.median(a / b for a, b in pairs)
