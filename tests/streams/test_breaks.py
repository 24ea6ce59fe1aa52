"""What is taken for a break of the network, and when a silent peer is given up."""

from __future__ import annotations

import errno
import socket

import pytest

from runai.streams.breaks import is_broken, is_here
from runai.streams.keepalive import Keepalive
from runai.streams.plain import PlainStream


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.ECONNRESET, errno.EHOSTUNREACH])
def test_only_between_computers_can_something_break(number: int) -> None:
    faults = [errno.EPIPE, number]  # the one after the other
    assert is_broken(faults, is_here=False)
    assert not is_broken(faults, is_here=True)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOTCONN])
def test_that_there_is_no_connection_any_more_tells_nothing(number: int) -> None:
    assert not is_broken([number, None], is_here=False)
    assert not is_broken([], is_here=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_peer_on_a_loopback_is_here(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"needs {host}")
    with listener, socket.create_connection(listener.getsockname()[:2]) as sock:
        assert is_here(sock)


class From:
    """A socket whose peer is somewhere else, which a test's cannot be."""

    family = socket.AF_INET

    def __init__(self, host: str) -> None:
        self._host = host

    def getpeername(self) -> tuple[str, int]:
        return (self._host, 1)


def test_a_peer_on_another_address_is_not() -> None:
    assert not is_here(From("192.0.2.7"))  # type: ignore[arg-type]
    assert not is_here(From("2001:db8::1"))  # type: ignore[arg-type]
    assert is_here(From("::ffff:127.0.0.1"))  # type: ignore[arg-type]


def test_a_unix_sockets_peer_and_one_that_has_gone_are_here() -> None:
    one, other = socket.socketpair()
    with one, other, socket.socket() as unconnected:
        assert is_here(one) and is_here(unconnected)


def test_a_stream_is_watched_in_both_directions() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        PlainStream(sock).watch(Keepalive(idle_s=10, interval_s=5, probes=3))
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [10, 5, 3]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 25_000


def test_a_unix_socket_needs_no_watching() -> None:
    one, other = socket.socketpair()
    with one, other:
        PlainStream(one).watch(Keepalive(idle_s=10, interval_s=5, probes=3))
