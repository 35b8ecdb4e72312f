"""Keep freed memory in the C library instead of returning it to the kernel.

glibc returns every large block to the kernel when it is freed, and the next allocation faults it in again, zeroed.
Networks free and allocate the same sizes over and over, so on a CPU this can take half of the time.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc refuses more


def keep_freed_memory(limit_bytes: int = 2**31 - 1) -> bool:
    """Keep up to ``limit_bytes`` of freed memory in the process from now on.

    Returns:
        True if the C library accepted the setting; False if it is not glibc, in which case nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {
        _M_MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD,
        _M_TRIM_THRESHOLD: limit_bytes,
        _M_TOP_PAD: 64 * 2**20,
    }
    return all(mallopt(option, value) == 1 for option, value in settings.items())
