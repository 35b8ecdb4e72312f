"""How many processors this process may use, and how many threads a model on them gets."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

MOST_THREADS = 16
"""Of one worker. A step of one image is some hundred small operations; more threads wait for each other in them."""

_ROOT = Path("/")


def threads_for(wished: int, workers: int, root: Path = _ROOT) -> int:
    """Threads of one of several workers on one machine, at least 1.

    Args:
        wished: what PyTorch would take: the machine's cores, or what ``OMP_NUM_THREADS`` says. It knows nothing of
            a container's limit, and threads beyond that only take each other's time.
        workers: that share the processors; 0 and 1 are one.
        root: of the file system.
    """
    share = min(wished, available_processors(root)) // max(1, workers)
    return max(1, min(share, MOST_THREADS))


def available_processors(root: Path = _ROOT) -> int:
    """Processors that this process may run on, at least 1: by its affinity, and by its control group's quota.

    A quota of two and a half is three: so many can run at a time, for most of the time.
    """
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quotas = [math.ceil(quota) for quota in _quotas(root) if quota > 0]
    return max(1, min([affinity, *quotas]))


def _quotas(root: Path) -> Iterator[float]:
    """Processors that the control groups of this process, and those above them, are limited to."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        mounted = root / "sys/fs/cgroup"
        if controllers:  # version 1
            if "cpu" not in controllers.split(","):
                continue
            mounted /= "cpu"
        directory = mounted / path.lstrip("/")
        # In a container the path may be the host's, which is not mounted: the container's own group is at the top.
        for level in (directory, *directory.parents):
            if level.is_relative_to(mounted) and (quota := _quota(level)) is not None:
                yield quota


def _quota(group: Path) -> float | None:
    """Microseconds a period over the period's; None without a limit."""
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
