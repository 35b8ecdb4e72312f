"""The control groups of this process, whose limits a container's are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def control_groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the directories of the groups that limit this process, from its own to the topmost.

    Args:
        controller: ``cpu`` or ``memory``; in version 1 each has a tree of its own.
        root: of the file system.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        mounted = root / "sys/fs/cgroup"
        if controllers:  # version 1
            if controller not in controllers.split(","):
                continue
            mounted /= controller
        directory = mounted / path.lstrip("/")
        # In a container the path may be the host's, which is not mounted: the container's own group is at the top.
        for level in (directory, *directory.parents):
            if level.is_relative_to(mounted):
                yield level
