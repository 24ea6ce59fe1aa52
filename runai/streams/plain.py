"""A socket to read from with a limit in time, and what every stream can do.

The limit is waited for with `poll` and not set as the socket's own time-out, which would hold
for the thread that writes as well. Standard library only.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from typing import Protocol

from runai.streams import breaks
from runai.streams.keepalive import Keepalive

# `recv` holds all its memory while it waits, and there may be hundreds who wait
RECEIVE_BYTES, WAITING_BYTES = 256 * 1024, 16 * 1024
# epoll would need a file descriptor of its own, which may be just what is missing
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Stream(Protocol):
    """Bytes both ways. One thread reads, another writes; `shut` may be called on any."""

    def recv(self, timeout_s: float | None = None) -> bytes | None:
        """What has come; empty when the peer sends no more, None when nothing came in time.

        Raises OSError when the connection is broken (a TimeoutError is of the network's making).
        """
        ...

    def sendall(self, data: bytes) -> None:
        """Write all of it; blocks as long as the peer makes it. Raises OSError."""
        ...

    def watch(self, keepalive: Keepalive) -> None:
        """Give a silent peer up as this says, also one that is sent something."""
        ...

    @property
    def is_here(self) -> bool:
        """Whether the peer is on this computer; so too if it has gone already."""
        ...

    def end(self) -> None:
        """Say that no more will be sent; by the thread that writes."""
        ...

    def shut(self) -> None:
        """End both directions now, and wake whoever waits."""
        ...

    def close(self) -> None:
        """Give the socket back; nobody may use the stream any more."""
        ...


class PlainStream:
    """The socket itself. It must be a blocking one, and belongs to the stream from now on."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._at_once = WAITING_BYTES

    def recv(self, timeout_s: float | None = None) -> bytes | None:
        if timeout_s is not None and not self._is_readable_within(timeout_s):
            return None
        data = self._sock.recv(self._at_once)
        # where so much came there is probably more
        self._at_once = RECEIVE_BYTES if len(data) >= WAITING_BYTES else WAITING_BYTES
        return data

    def _is_readable_within(self, timeout_s: float) -> bool:
        with _Selector() as selector:
            selector.register(self._sock, selectors.EVENT_READ)
            return bool(selector.select(max(timeout_s, 0.0)))

    def sendall(self, data: bytes) -> None:
        self._sock.sendall(data)

    def watch(self, keepalive: Keepalive) -> None:
        keepalive.watch(self._sock)
        keepalive.watch_what_is_sent(self._sock)

    @property
    def is_here(self) -> bool:
        return breaks.is_here(self._sock)

    def end(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def shut(self) -> None:
        with contextlib.suppress(OSError):  # it is not connected any more
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()
