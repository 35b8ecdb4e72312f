"""The number of processors that this process may use, and of threads for a model on them."""

from __future__ import annotations

import math
import os
from pathlib import Path

from server.worker.control_groups import control_groups

MOST_THREADS = 16
"""Threads of one worker at most. A step of one image is some hundred small operations, in which more threads would
only wait for each other."""

_ROOT = Path("/")


def threads_for(wished: int, workers: int, root: Path = _ROOT) -> int:
    """Return the number of threads for one of several workers on one machine, at least 1.

    Args:
        wished: PyTorch's own choice: the machine's cores, or ``OMP_NUM_THREADS``. It ignores a container's limit, and
            threads beyond that limit only slow each other down.
        workers: number of workers that share the processors; 0 counts as 1.
        root: of the file system.
    """
    share = min(wished, available_processors(root)) // max(1, workers)
    return max(1, min(share, MOST_THREADS))


def available_processors(root: Path = _ROOT) -> int:
    """Return the number of processors that this process may use by its affinity and its control groups' quotas.

    It is at least 1. A quota of 2.5 counts as 3: that many can run at once, most of the time.
    """
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    limits = map(_quota, control_groups("cpu", root))
    quotas = [math.ceil(quota) for quota in limits if quota is not None and quota > 0]
    return max(1, min([affinity, *quotas]))


def _quota(group: Path) -> float | None:
    """Return a group's quota divided by its period; None without a limit."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{what}_us").read_text(encoding="ascii").strip()
                for what in ("quota", "period")
            )
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return None
