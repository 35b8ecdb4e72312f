"""Accepts connections within their limit, and goes on when file descriptors run out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable

from server.errors import Overloaded
from server.http.connections import Connections
from server.http.raw_answer import raw_answer
from server.http.refusals import Refusals

_AT_ONCE = 64
"""Connections accepted before the event loop goes round."""
_MOST_DESCRIPTORS = 1 << 16
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_ROOM = 16
"""Silent connections closed when the system has no descriptor left for a new one."""
_PAUSE_S = 0.1
_RETRY_S = 5


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit on file descriptors to the hard one, 65,536 at most; return it."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return _MOST_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = _MOST_DESCRIPTORS if hard == unlimited else min(hard, _MOST_DESCRIPTORS)
    if soft == unlimited or soft >= wanted:
        return _MOST_DESCRIPTORS if soft == unlimited else soft
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def connections_for(descriptors: int) -> int:
    """Number of connections that a limit on descriptors allows; a quarter, 256 at most, is kept for the rest."""
    return max(descriptors - min(descriptors // 4, 256), 1)


class Acceptor:
    """Accepts the connections of one listening socket.

    The event loops' own servers either stop for good when ``accept`` fails for want of descriptors (uvloop), or
    know no limit on connections. This one answers 503 at the limit, closes silent connections when descriptors
    run out, and otherwise tries again after a pause, in which new clients wait in the socket's backlog.

    Args:
        listener: bound and listening.
        make_protocol: called for each connection.
        connections: of all acceptors of a server.
        refusals: where failures are counted.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        connections: Connections,
        refusals: Refusals,
    ) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._connections = connections
        self._refusals = refusals
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._task = self._loop.create_task(self._run())

    def close(self) -> None:
        """Accept no further connections; those that are open stay so."""
        self._task.cancel()

    async def wait_closed(self) -> None:
        """Wait for connections that are being set up."""
        await asyncio.gather(self._task, *self._connecting, return_exceptions=True)

    async def _run(self) -> None:
        accepted_in_a_row = 0
        while True:
            try:
                accepted, _ = await self._loop.sock_accept(self._listener)
            except ConnectionAbortedError:
                continue  # the client left while it was in the backlog
            except OSError as error:
                await self._recover(error)
                continue
            self._admit(accepted)
            accepted_in_a_row += 1
            if accepted_in_a_row % _AT_ONCE == 0:
                await asyncio.sleep(0)  # accepting need not suspend while the backlog is full

    async def _recover(self, error: OSError) -> None:
        """Make room for another connection if descriptors have run out; try again after a pause."""
        self._refusals.note("accept_failed", error=error.strerror or str(error))
        closed = 0
        if error.errno in _EXHAUSTED:
            while closed < _ROOM and self._connections.evict():
                closed += 1
        await asyncio.sleep(_PAUSE_S if closed else 10 * _PAUSE_S)

    def _admit(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        if self._connections.enter():
            task = self._loop.create_task(self._connect(accepted))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
            return
        self._refusals.note("connection_limit")
        error = Overloaded(
            "The server has as many connections as it can hold; try again soon.",
            retry_after=_RETRY_S,
        )
        with accepted, contextlib.suppress(OSError):
            accepted.send(raw_answer(error))
            accepted.shutdown(socket.SHUT_WR)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._make_protocol, accepted)
        except OSError:  # the client has left
            self._connections.leave()
            accepted.close()
