"""A socket that is waited for no longer than one wants."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest

from runai.streams.plain import PlainStream
from tests.streams.conftest import Ends


def test_what_came_is_given_at_once_with_and_without_a_limit(ends: Ends) -> None:
    server, client = ends
    stream = PlainStream(server)
    client.sendall(b"one")
    assert stream.recv() == b"one"
    client.sendall(b"two")
    assert stream.recv(10.0) == b"two"


def test_nothing_in_time_is_none_and_the_end_is_empty(ends: Ends) -> None:
    server, client = ends
    stream = PlainStream(server)
    began = time.monotonic()
    assert stream.recv(0.05) is None
    assert time.monotonic() - began >= 0.05
    assert stream.recv(-1.0) is None
    client.close()
    assert stream.recv(10.0) == b""


def test_a_limit_for_reading_holds_nobody_up_who_writes(ends: Ends) -> None:
    server, client = ends
    stream = PlainStream(server)
    big = bytes(8_000_000)
    writer = threading.Thread(target=stream.sendall, args=(big,))
    writer.start()
    assert stream.recv(0.05) is None
    left = len(big)
    while left:
        left -= len(client.recv(1 << 20))
    writer.join(10.0)
    assert not writer.is_alive()


def test_shutting_wakes_whoever_reads(ends: Ends) -> None:
    stream = PlainStream(ends[0])
    got: list[bytes | None] = []
    reader = threading.Thread(target=lambda: got.append(stream.recv(30.0)))
    reader.start()
    stream.shut()
    reader.join(10.0)
    assert got == [b""]
    stream.shut()  # again is no fault


def test_ending_lets_the_other_side_go_on(ends: Ends) -> None:
    server, client = ends
    stream = PlainStream(server)
    stream.end()
    assert client.recv(1) == b""
    client.sendall(b"still here")
    assert stream.recv(10.0) == b"still here"


def test_a_reset_is_an_error(ends: Ends) -> None:
    server, client = ends
    server.sendall(b"unread")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with pytest.raises(ConnectionResetError):
        PlainStream(server).recv(10.0)
