"""Writing so that a naive reader finds the end of every message.

Theory of operation. The original plugin reads with `recv(packet_size)` and sees an EOM only
when one read returns exactly that packet; a read that holds the end of a body and the start of
its EOM, or of the EOM and the next body, loses a message. There are two ways to prevent it:

- `Drained`, wherever the peer's socket can be looked at (loopback): before each piece, wait
  until the peer's program has read all that was sent before, so no read can span two pieces.
  There is no event to wait for, so the peer is looked at again and again, at growing
  distances; but only during a reply, and a peer that reads nothing for `PATIENCE_S` is
  sent the piece all the same.
- `Straight` with segments of whole packets (TCP_MAXSEG on the listener, Nagle on), where the
  peer cannot be seen: what lies in the peer's queue is always a multiple of the packet.

Where neither works (the peer's system sends no TCP timestamps, so segments came out larger),
`Settled` waits until the peer's system has confirmed all, and a little for its program. A
client that said `hello` reads properly and gets `Straight` without Nagle.
Standard library only; knows no messages.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from runai.transports import peer

PATIENCE_S = 10.0
SETTLE_S = 0.02
FIRST_LOOK_S, LAST_LOOK_S = 20e-6, 20e-3

JOINED_BYTES = 64 * 1024
ETHERNET_SEGMENT = 1428  # what fits 1500 bytes beside IPv6 and TCP headers with timestamps
LARGEST_SEGMENT = 32767
SMALLEST_SEGMENT = 88
TIMESTAMP_BYTES = 12
TIMESTAMPS = Path("/proc/sys/net/ipv4/tcp_timestamps")


class Pace(Protocol):
    """When the pieces of a message are written."""

    def write(self, pieces: Iterable[bytes]) -> None:
        """Send all of it; blocks as long as the peer makes it. Raises OSError."""
        ...


class Taker(Protocol):
    """A socket, or a stream."""

    def sendall(self, data: bytes, /) -> None:
        """Write all of it. Raises OSError."""
        ...


class Straight:
    """One piece after the other, as fast as they are taken."""

    def __init__(self, taker: Taker) -> None:
        self._taker = taker

    def write(self, pieces: Iterable[bytes]) -> None:
        given = list(pieces)
        if sum(map(len, given)) <= JOINED_BYTES:  # each call may have to wait for other threads
            given = [b"".join(given)]
        for piece in given:
            self._taker.sendall(piece)


class Drained:
    """A piece once the peer's program has read all before it.

    To be made before anything is sent, or when all that was sent has arrived.
    """

    def __init__(
        self,
        sock: socket.socket,
        now: peer.Peer,
        ended: threading.Event,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._sock = sock
        self._ended = ended
        self._sent = now.received
        self._patience_s = patience_s
        set_nagle(sock, False)

    def write(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self._arrived = False
            _wait_while(self._unread, self._ended, self._patience_s)
            self._sock.sendall(piece)
            self._sent += len(piece)

    def _unread(self) -> int:
        """How many bytes the peer's program has not read, at most; surely so when it is 0."""
        now = peer.look(self._sock)
        if now is None:  # it is gone; writing will tell
            return 0
        # the queue was looked at before the total: it is only known to be
        # empty for good if everything had come by an earlier look
        coming, arrived = self._sent - now.received, self._arrived
        self._arrived = coming == 0
        return coming + now.unread + (not arrived)


class Settled:
    """A piece a little after the peer's system has confirmed all before it."""

    def __init__(self, sock: socket.socket, ended: threading.Event) -> None:
        self._sock = sock
        self._ended = ended
        set_nagle(sock, False)

    def write(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            _wait_while(self._unconfirmed, self._ended, PATIENCE_S)
            self._ended.wait(SETTLE_S)
            self._sock.sendall(piece)

    def _unconfirmed(self) -> int:
        return int(struct.unpack("=i", fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4)))[0])


def _wait_while(left: Callable[[], int], ended: threading.Event, patience_s: float) -> None:
    """Return when nothing is left, when it has not become less for a long time, or at the end."""
    least, since = left(), time.monotonic()
    while least and (waited := time.monotonic() - since) < patience_s:
        if ended.wait(min(max(waited / 4, FIRST_LOOK_S), LAST_LOOK_S)):
            return
        now = left()
        if now < least:
            least, since = now, time.monotonic()


def set_nagle(sock: socket.socket, on: bool) -> None:
    """Whether small writes wait for more to go with them; TCP only."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, not on)


def pace_for(sock: socket.socket, packet_size: int, ended: threading.Event) -> Pace:
    """How to write to a client of which nothing is known, and to which nothing was sent.

    When `ended` is set no pace waits any more.
    """
    now = peer.look(sock)
    if now is not None:
        return Drained(sock, now, ended)
    if has_whole_packets(sock, packet_size):
        set_nagle(sock, True)
        return Straight(sock)
    return Settled(sock, ended)


# Segments of whole packets.


def limit_segments(listener: socket.socket, packet_size: int) -> None:
    """Make the connections that this listener will accept carry whole packets a segment."""
    segment = _segment_bytes(packet_size)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)


def unlimit_segments(listener: socket.socket) -> None:
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 0)


def has_whole_packets(sock: socket.socket, packet_size: int) -> bool:
    """Whether an accepted connection's segments came out as multiples of the packet."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) % packet_size == 0


def _segment_bytes(packet_size: int) -> int:
    """As many whole packets as fit an Ethernet frame, or one packet; with its timestamps."""
    packets = max(ETHERNET_SEGMENT // packet_size, 1) * packet_size
    with_options = packets + (TIMESTAMP_BYTES if _stamps() else 0)
    return min(max(with_options, SMALLEST_SEGMENT), LARGEST_SEGMENT)


def _stamps() -> bool:
    """Whether this system sends TCP timestamps, which is usual; not every one tells."""
    try:
        return int(TIMESTAMPS.read_text("ascii")) != 0
    except OSError:
        return True
