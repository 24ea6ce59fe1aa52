"""Ctrl-C while something is fetched is heard, at whatever moment it comes."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from runai.cli.fetch.stopping import Stop

PATIENCE_S = 20.0


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_S)
    with ours, theirs:
        yield ours


class Dying:
    """What is raised in its end is printed and forgotten."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_in_a_destructor_while_bytes_come_in(connection: socket.socket) -> None:
    stop = Stop()
    with pytest.raises(KeyboardInterrupt), stop.heard(), stop.receiving(connection):
        Dying()
        assert connection.recv(1) == b"", "the read is ended"


def test_before_anything_comes_in() -> None:
    stop = Stop()
    with pytest.raises(KeyboardInterrupt), stop.heard():
        signal.raise_signal(signal.SIGINT)


def test_swallowed_before_bytes_come_in(connection: socket.socket) -> None:
    stop = Stop()
    with pytest.raises(KeyboardInterrupt), stop.heard():
        with suppress(KeyboardInterrupt):  # as a library might
            signal.raise_signal(signal.SIGINT)
        with stop.receiving(connection):
            raise AssertionError("nothing is read any more")


def test_what_a_broken_connection_raises_is_not_what_is_said(connection: socket.socket) -> None:
    stop = Stop()
    with pytest.raises(KeyboardInterrupt), stop.heard(), stop.receiving(connection):
        signal.raise_signal(signal.SIGINT)
        raise ConnectionResetError


def test_without_ctrl_c_nothing_is_raised(connection: socket.socket) -> None:
    stop = Stop()
    before = signal.getsignal(signal.SIGINT)
    with stop.heard(), stop.receiving(connection):
        pass
    assert signal.getsignal(signal.SIGINT) is before
