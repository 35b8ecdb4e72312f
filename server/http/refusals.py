"""What is refused before it is a request: counted always, logged as long as the log can be read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from server.metrics import Metrics, Refusal

_BURST = 5
"""Log lines of one reason in a row; after these, one a second."""


@dataclass
class _Quota:
    """How many lines of one reason may be written now.

    Attributes:
        left: lines, refilled by one a second.
        since: when ``left`` was computed.
        unlogged: refusals since the last line.
    """

    left: float
    since: float
    unlogged: int = 0


class Refusals:
    """Counts connections that the server closes, and logs them; a flood is one line a second.

    Args:
        metrics: of the app.
        clock: seconds, monotonic.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._counter = metrics.connections_refused
        self._clock = clock
        self._quotas: dict[Refusal, _Quota] = {}
        self._log = structlog.get_logger("star.connection")

    def note(self, reason: Refusal, **details: str | int) -> None:
        """Count a refusal, and log it.

        Args:
            reason: label of the metric.
            details: further fields of the log line.
        """
        self._counter.labels(reason).inc()
        now = self._clock()
        quota = self._quotas.setdefault(reason, _Quota(_BURST, now))
        quota.left = min(quota.left + now - quota.since, _BURST)
        quota.since = now
        if quota.left < 1:
            quota.unlogged += 1
            return
        quota.left -= 1
        more = {"more_unlogged": quota.unlogged} if quota.unlogged else {}
        quota.unlogged = 0
        self._log.warning("connection refused", reason=reason, **details, **more)
