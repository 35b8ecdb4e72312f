"""Binding addresses."""

from __future__ import annotations

import contextlib
import select
import socket

import pytest

from server.commands.serve import listen
from server.errors import CannotListen


def test_a_free_port_is_taken_on_every_address_of_a_name() -> None:
    sockets = listen("localhost", 0)
    try:
        ports = {bound.getsockname()[1] for bound in sockets}
        assert len(ports) == 1
        assert ports != {0}
        for bound in sockets:
            with socket.create_connection(bound.getsockname()[:2], timeout=5):
                pass
    finally:
        for bound in sockets:
            bound.close()


@pytest.mark.parametrize("host", ["198.51.100.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(
        CannotListen, match=rf"Cannot listen on {host} port 8000: .*--host or --port"
    ):
        listen(host, 8000)


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="a socket option of Linux")
def test_a_client_that_reads_nothing_is_sent_little_and_cut_off() -> None:
    (listener,) = listen("127.0.0.1", 0, write_timeout_s=0.5)
    with listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        connection, _ = listener.accept()
        with connection:
            connection.setblocking(False)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sent < 1 << 24:
                    sent += connection.send(bytes(1 << 16))
            assert sent < 1 << 20, "megabytes wait in the system, previews and all"
            poll = select.poll()
            poll.register(connection, select.POLLERR)
            assert poll.poll(30_000), "it may read nothing for ever"
            with pytest.raises(TimeoutError):
                connection.send(b"x")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this machine")
def test_every_interface_in_ipv6_takes_ipv4_too() -> None:
    (listener,) = listen("::", 0)
    with listener:
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, listener.getsockname()[1]), timeout=5):
                pass
