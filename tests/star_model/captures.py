"""Captures of graphs that need no GPU: one that works, and some that fail."""

from __future__ import annotations

from collections.abc import Callable


class RecordingCapture:
    """Replays by running the work, which it does not run before: nothing is there that was not replayed."""

    def __init__(self) -> None:
        self.captured = 0
        self.replayed = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay


class BrokenCapture(RecordingCapture):
    """Captures some, then fails as a device does, and counts how often it was asked to."""

    def __init__(self, works: int = 3) -> None:
        super().__init__()
        self.works = works
        self.failed = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.captured == self.works:
            self.failed += 1
            raise RuntimeError("operation not permitted when stream is capturing")
        return super().__call__(work)


class ForgetfulCapture(RecordingCapture):
    """Its replays do nothing, as those of a graph whose work went elsewhere."""

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        super().__call__(work)
        return lambda: None
