"""Writing log lines to a stream whose reader may be slow or stopped, without waiting for it."""

from __future__ import annotations

import contextlib
import io
import logging
import select
from typing import TextIO

_AT_ONCE = 1000
"""Characters written at once: at most 4,000 bytes, for which a pipe that can be written to has room (PIPE_BUF)."""


class UnblockedHandler(logging.StreamHandler[TextIO]):
    """Drops lines that would have to wait, and says how many, once there is room again.

    A pipe that nobody empties, or a terminal that is stopped with Ctrl-S, would otherwise stop the event loop: no
    request would be answered any more, and no signal heeded.

    Args:
        stream: a pipe, a terminal, a file, or any other.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._dropped = 0
        self._cut = False  # the last line that was written has no end
        self._poll: select.poll | None = None
        with contextlib.suppress(AttributeError, OSError, ValueError, io.UnsupportedOperation):
            poll = select.poll()
            poll.register(stream.fileno(), select.POLLOUT)
            self._poll = poll  # a stream without a descriptor never waits

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it as dropped."""
        try:
            if self._dropped and self._has_room():
                self._resume()
            self._write(self.format(record) + self.terminator)
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def _resume(self) -> None:
        """Say what was dropped, on a line of its own."""
        text = f"{self._dropped} log lines were dropped: whoever reads the log was too slow"
        note = logging.LogRecord("star.log", logging.WARNING, __file__, 0, text, None, None)
        start = self.terminator if self._cut else ""
        self._dropped, self._cut = 0, False
        self._write(start + self.format(note) + self.terminator)

    def _write(self, line: str) -> None:
        for start in range(0, len(line), _AT_ONCE):
            if not self._has_room():
                self._dropped += 1
                self._cut = self._cut or start > 0
                return
            self.stream.write(line[start : start + _AT_ONCE])
            self.flush()

    def _has_room(self) -> bool:
        """Whether a part of a line can be written at once; true also where the reader is gone, and writing fails."""
        return self._poll is None or bool(self._poll.poll(0))
