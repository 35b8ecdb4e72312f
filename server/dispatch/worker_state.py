"""The state of a worker as operators see it: its phase, and how its last process ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal[
    "starting", "loading", "capturing", "warming", "ready", "restarting", "draining", "failed", "stopped"
]  # fmt: skip
"""Phase of the service's life. A worker is never ``draining``: only the service is."""

WorkerPhase = Literal[
    "starting", "loading", "capturing", "warming", "ready", "restarting", "failed", "stopped"
]
"""Phase of a worker's life; ``restarting`` and ``failed`` are the pause before the next start, which is longer after
a model that has never been loaded."""

EndCause = Literal[
    "exited", "killed", "load_failed", "not_started", "silent", "load_timeout", "stalled"
]
"""Why a worker's process ended: by itself; by a signal from elsewhere, of the kernel when memory is short; because
the model cannot be loaded; because no process could be launched. The last three were killed by their supervisor."""


@dataclass(frozen=True)
class WorkerEnd:
    """The end of one process of a worker.

    Args:
        cause: for metrics.
        reason: for people.
        at: time, on the supervisor's clock.
    """

    cause: EndCause
    reason: str
    at: float


@dataclass(frozen=True)
class WorkerState:
    """One worker, at one moment.

    Args:
        index: of the worker.
        phase: of its life.
        phase_seconds: since the phase began.
        restarts: processes of this worker that have ended; each was, or will be, followed by another.
        last_end: of the latest that has ended.
        last_end_seconds: since then.
    """

    index: int
    phase: WorkerPhase
    phase_seconds: float
    restarts: int
    last_end: WorkerEnd | None
    last_end_seconds: float | None
