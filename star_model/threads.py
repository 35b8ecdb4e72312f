"""Limit on how long OpenMP threads spin at a barrier before they sleep.

Every operation of a network on a CPU ends at a barrier. PyTorch's Linux wheels bring GNU libgomp, whose threads wait
there by spinning 300,000 times before they sleep. While they spin they hold a core; if another program holds the
core of the thread they wait for, the time is lost, thousands of times an image. A thread that sleeps early
leaves its core to the one that has work.
"""

from __future__ import annotations

import os
import sys

SPIN_COUNT = 1000
"""Times a thread spins before it sleeps. Measured by ``python -m benchmarks.bench_busy``: see docs/performance.md."""

_CHOSEN_BY_USER = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}


def limit_spinning() -> bool:
    """Set ``GOMP_SPINCOUNT`` to :data:`SPIN_COUNT` for this process and those that it starts.

    libgomp reads the variable once, when PyTorch loads it, so call this before anything imports torch. A no-op where
    torch is loaded already, and where the user has set ``GOMP_SPINCOUNT`` or ``OMP_WAIT_POLICY``. Other OpenMP
    libraries (LLVM's and Intel's, on macOS and Windows) do not read the variable.

    Returns:
        True if it set the variable.
    """
    if "torch" in sys.modules or _CHOSEN_BY_USER & os.environ.keys():
        return False
    os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    return True
