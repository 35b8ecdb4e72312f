"""What the machine has too little of: memory, threads, descriptors, space. That passes, and is nobody's mistake."""

from __future__ import annotations

import errno

from server.errors import Overloaded

_SHORT = (
    *(errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS),
    *(errno.ENOSPC, errno.EDQUOT),
)
_RETRY_S = 5


def shortage_of(error: BaseException | None) -> Overloaded | None:
    """Return the answer to a request that failed for want of something; None if the error has another reason."""
    match error:
        case MemoryError():
            short = True
        case OSError():
            short = error.errno in _SHORT
        case RuntimeError():  # as Python words it where a thread cannot be started
            short = "start new thread" in str(error)
        case _:
            short = False
    if not short:
        return None
    return Overloaded(
        "The server is short of memory, threads, file descriptors or disk space right now. Try again.",
        retry_after=_RETRY_S,
    )
