"""``star-server``, also as ``python -m server``: signals and standard streams are put right, then a command runs."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line of this process.

    The imports take most of a second. Ctrl-C meanwhile would end them in a traceback, so it ends the process at once;
    while ``serve`` starts, too, as nothing is running yet that it would have to finish.

    Returns:
        the exit code.
    """
    _open_missing_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from server.commands.cli import main as run

    if sys.argv[1:2] != ["serve"] and signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


def _leave(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


def _open_missing_streams() -> None:
    """Open standard streams that are closed; a socket would take their descriptors, and get what is written to them."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            os.set_inheritable(opened, True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


if __name__ == "__main__":  # a worker process imports this module too, and must not start over
    sys.exit(main())
