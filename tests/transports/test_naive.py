"""Writing for naive readers, on real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runai.transports import naive
from runai.transports.listener import bind
from runai.transports.naive import Drained, Pace, Settled, Straight
from runai.transports.peer import Peer, look
from runai.wire.packets import pad
from tests.transports.clients import PACKET, PATIENCE_S, NaiveReader

EOM = b"\0" * PACKET
REPLIES = 200
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A served socket and its client's."""
    yield from _pair(request.param, lambda listener: None)


@pytest.fixture
def pair_of_whole_packets() -> Iterator[Pair]:
    yield from _pair("127.0.0.1", lambda listener: naive.limit_segments(listener, PACKET))


def _pair(host: str, prepare: Callable[[socket.socket], None]) -> Iterator[Pair]:
    (listener,) = bind(host, 0)
    prepare(listener)
    with listener, socket.create_connection(listener.getsockname()[:2], PATIENCE_S) as client:
        served, _ = listener.accept()
        with served:
            yield served, client


def in_thread(call: Callable[[], Any]) -> Callable[[], None]:
    thread = threading.Thread(target=call)
    thread.start()

    def join() -> None:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()

    return join


def message(body: bytes) -> tuple[bytes, bytes]:
    return pad(body, PACKET), EOM


def drained(served: socket.socket, **options: Any) -> Drained:
    now = look(served)
    assert now is not None
    return Drained(served, now, threading.Event(), **options)


def test_the_naive_reader_takes_two_messages_for_one_when_an_eom_is_merged() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"a" * 1000)
        assert theirs.recv(1000) == b"a" * 1000  # a read that ended off the boundary
        ours.sendall(b"a" * 24 + EOM + b"b" * PACKET)
        ours.sendall(EOM)
        ours.shutdown(socket.SHUT_WR)
        assert NaiveReader(theirs).read() is None


def test_the_peers_unread_bytes_are_seen(pair: Pair) -> None:
    served, client = pair
    assert look(served) == Peer(0, 0)
    served.sendall(b"a" * 1000)
    assert look(served) == Peer(1000, 1000)
    client.recv(400)
    assert look(served) == Peer(600, 1000)


def test_a_peer_that_is_gone_has_no_queue(pair: Pair) -> None:
    served, client = pair
    client.close()
    assert (look(served) or Peer(0, 0)).unread == 0


def test_no_piece_comes_before_all_of_the_one_before_is_read(pair: Pair) -> None:
    served, client = pair
    written = in_thread(lambda: drained(served).write([*message(b"a" * PACKET), *message(b"b")]))
    for piece in (b"a" * PACKET, EOM, pad(b"b", PACKET), EOM):
        left = piece
        while left:
            part = client.recv(min(100, len(left)))
            left = left[len(part) :]
            if left:
                assert client.recv(1 << 20, socket.MSG_PEEK) == left
    written()


def test_a_peer_that_reads_nothing_is_sent_the_rest_all_the_same(pair: Pair) -> None:
    served, client = pair
    drained(served, patience_s=0.01).write(message(b"a"))
    assert client.recv(3 * PACKET, socket.MSG_WAITALL | socket.MSG_PEEK)[PACKET:] == EOM


def test_an_end_is_not_waited_out(pair: Pair) -> None:
    served, _ = pair
    now, ended = look(served), threading.Event()
    assert now is not None
    written = in_thread(lambda: Drained(served, now, ended, patience_s=1e9).write(message(b"a")))
    ended.set()
    written()


def test_a_peer_that_cannot_be_seen_gets_time_to_read(pair: Pair) -> None:
    served, client = pair
    written = in_thread(lambda: Settled(served, threading.Event()).write(message(b"a")))
    reader = NaiveReader(client)
    assert reader.read() == b"a"
    written()


def test_a_peer_on_loopback_is_seen_and_so_drained(pair: Pair) -> None:
    served, _ = pair
    assert isinstance(naive.pace_for(served, PACKET, threading.Event()), Drained)


@pytest.mark.parametrize("packet_size", [88, 100, 512, 1024, 1400, 4096, 16384])
def test_segments_hold_whole_packets_where_they_are_limited(packet_size: int) -> None:
    (listener,) = bind("127.0.0.1", 0)
    with listener:
        assert not naive.has_whole_packets(listener, 7919)
        naive.limit_segments(listener, packet_size)
        with socket.create_connection(listener.getsockname()):
            served, _ = listener.accept()
            with served:
                assert naive.has_whole_packets(served, packet_size)


def receive_all_naively(pair: Pair, pace: Pace, bodies: list[bytes]) -> None:
    """Fails unless a naive reader tells every one of these messages, sent back to back."""
    served, client = pair

    def write() -> None:
        for body in bodies:
            pace.write(message(body))
        served.shutdown(socket.SHUT_WR)

    written = in_thread(write)
    reader = NaiveReader(client)
    for body in bodies:
        assert reader.read() == body
    assert reader.read() is None
    written()


def replies_and_progress() -> list[bytes]:
    """1 MB and a bit, so that most fill no packet, with short messages in between."""
    replies: list[bytes] = []
    for number in range(REPLIES):
        replies += [b'{"step": %d}' % number, b"%d" % (number % 10) * (1_000_000 + number)]
    return replies


def test_no_reply_is_lost_by_a_naive_reader_that_is_drained(pair: Pair) -> None:
    receive_all_naively(pair, drained(pair[0]), replies_and_progress())


def test_no_reply_is_lost_by_a_naive_reader_of_whole_packets(pair_of_whole_packets: Pair) -> None:
    served = pair_of_whole_packets[0]
    naive.set_nagle(served, True)
    pace = Straight(served)
    receive_all_naively(pair_of_whole_packets, pace, replies_and_progress())
