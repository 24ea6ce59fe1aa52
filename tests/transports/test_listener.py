"""Listening sockets, and what is said when there can be none."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from runai.errors import AddressInUse, InvalidSetting
from runai.transports import naive
from runai.transports.listener import bind


@contextmanager
def bound(host: str, port: int = 0, **options: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(sock) for sock in bind(host, port, **options)]


def test_localhost_is_both_loopbacks_on_one_port() -> None:
    with bound("localhost") as listeners:
        names = [listener.getsockname()[:2] for listener in listeners]
        assert [host for host, _ in names] == ["127.0.0.1", "::1"]
        assert len({port for _, port in names}) == 1
        for name in names:
            socket.create_connection(name).close()


def test_an_address_is_that_address_alone() -> None:
    with bound("127.0.0.1") as listeners:
        (listener,) = listeners
        port = listener.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_busy_port_is_said_to_be(host: str) -> None:
    with bound("localhost") as listeners:
        port = listeners[0].getsockname()[1]
        with pytest.raises(AddressInUse, match=str(port)):
            bind(host, port)


def test_a_port_that_is_busy_on_one_loopback_leaves_no_listener_on_the_other() -> None:
    with bound("::1") as listeners:
        port = listeners[0].getsockname()[1]
        with pytest.raises(AddressInUse):
            bind("localhost", port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a" * 70 + ".invalid"])
def test_a_host_that_is_not_ours_is_said_to_be(host: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        bind(host, 0)
    assert caught.value.field == "host"


@pytest.mark.parametrize(("host", "whole"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_only_where_clients_may_be_unseen_are_segments_limited(host: str, whole: bool) -> None:
    with (
        bound(host, packet_size=1000) as (listener,),
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])),
    ):
        served, _ = listener.accept()
        with served:
            assert naive.has_whole_packets(served, 1000) is whole


def test_listening_needs_nothing_heavy() -> None:
    code = "import sys, runai.transports.listener; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pydantic", "torch", "PIL", "numpy"} & set(done.stdout.split())
