"""A process that decodes uploaded images, within limits of time and memory. It loads no PyTorch.

A file can make a decoder crash, hang or take all memory. Here that ends one process, which is replaced.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import multiprocessing
import resource
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection

from server.child_process import group_signals_blocked, obey_parent_alone
from server.errors import InvalidRequest, UnusableImage, UploadReason
from server.images.canvas import EditOptions, Size, read_edit
from server.images.uploads import EditFiles
from server.messages import ImageEdit

_START_S = 60.0
"""Seconds that a process may take to start on a busy machine."""


@dataclass(frozen=True)
class EditSource:
    """The files of an edit and what they are to become; see :func:`server.images.canvas.read_edit`."""

    files: EditFiles
    options: EditOptions
    sizes: tuple[Size, ...]
    scales: int
    max_pixels: int

    def read(self) -> ImageEdit:
        """Decode the files and lay them out on the canvas; raises ``InvalidRequest``."""
        return read_edit(
            self.files,
            self.options,
            sizes=self.sizes,
            scales=self.scales,
            max_pixels=self.max_pixels,
        )


@dataclass(frozen=True)
class _Refused:
    """An error in a form that can be sent through a pipe; ``reason`` is None if the files were usable."""

    message: str
    param: str | None
    reason: UploadReason | None

    def error(self) -> InvalidRequest:
        if self.reason is None:
            return InvalidRequest(self.message, param=self.param)
        return UnusableImage(self.message, param=self.param, reason=self.reason)


class DecodeProcess:
    """One process, as its parent sees it. One thread at a time decodes; any thread may kill.

    Args:
        timeout_s: seconds that an edit may take.
        memory_bytes: address space of the process.
    """

    def __init__(self, timeout_s: float, memory_bytes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._ready = False
        self._killed = False
        self._connection, theirs = context.Pipe(duplex=True)
        self._process = context.Process(
            target=decode_main,
            args=(theirs, timeout_s, memory_bytes),
            name="star-decoder",
            daemon=True,
        )
        try:
            with group_signals_blocked():
                self._process.start()
        except BaseException:
            self._connection.close()
            raise
        finally:
            theirs.close()
        atexit.register(self.kill)

    @property
    def pid(self) -> int | None:
        """Process id."""
        return self._process.pid

    @property
    def usable(self) -> bool:
        """Whether the process can decode another edit."""
        return not self._killed and self._process.is_alive()

    def decode(self, source: EditSource) -> ImageEdit:
        """Decode the files of an edit; blocks. A process that exceeded the limits is dead.

        Raises:
            InvalidRequest: the edit is impossible.
            UnusableImage: a file is unusable, or exceeded the limits.
            OSError: the process did not start.
        """
        try:
            if not self._ready:
                self._wait_until_ready()
            self._connection.send(source)
            if not self._connection.poll(self._timeout_s):
                self.kill()
                raise _too_costly(
                    source, f"takes more than {self._timeout_s:g} s to decode", "time"
                )
            reply = self._connection.recv()
        except (EOFError, OSError) as error:
            if not self._ready:
                raise OSError("a process for decoding images did not start") from error
            self.kill()
            raise _too_costly(source, "makes the decoder crash", "crash") from error
        if isinstance(reply, _Refused):
            raise reply.error()
        assert isinstance(reply, ImageEdit)
        return reply

    def kill(self) -> None:
        """End the process at once; a decode under way fails."""
        self._killed = True
        with contextlib.suppress(ValueError):  # already closed
            self._process.kill()

    def close(self) -> None:
        """Kill the process and forget it; no decode may be under way."""
        atexit.unregister(self.kill)
        self.kill()
        self._process.join()
        self._process.close()
        self._connection.close()

    def _wait_until_ready(self) -> None:
        if not self._connection.poll(_START_S):
            self.kill()
            raise OSError("a process for decoding images took too long to start")
        self._connection.recv()
        self._ready = True


def decode_main(connection: Connection, timeout_s: float, memory_bytes: int) -> None:
    """Decode until the other end of the pipe closes. Called in the child process."""
    obey_parent_alone()
    with contextlib.suppress(OSError, ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not write uploads to the disk
    with contextlib.suppress(EOFError, OSError):
        connection.send(None)
        while True:
            source = connection.recv()
            # Without a handler SIGALRM ends the process, even if the parent that watches the clock is gone.
            signal.alarm(math.ceil(timeout_s) + 1)
            reply = _decode(source, memory_bytes)
            signal.alarm(0)
            connection.send(reply)
            del source, reply


def _decode(source: EditSource, memory_bytes: int) -> ImageEdit | _Refused:
    try:
        return source.read()
    except UnusableImage as error:
        return _Refused(error.message, error.param, error.reason)
    except InvalidRequest as error:
        return _Refused(error.message, error.param, None)
    except MemoryError:
        limit = f"takes more than {memory_bytes >> 20:,} MiB of memory to decode"
        costly = _too_costly(source, limit, "memory")
        return _Refused(costly.message, costly.param, costly.reason)


def _too_costly(source: EditSource, problem: str, reason: UploadReason) -> UnusableImage:
    names = "image" if source.files.mask is None else "image or mask"
    return UnusableImage(
        f"{names} {problem}; save it again, smaller or with another program.",
        param="image",
        reason=reason,
    )
