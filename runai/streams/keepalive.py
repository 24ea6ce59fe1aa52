"""When a peer that says nothing is taken to be gone: its computer, or the network between.

TCP asks such a peer for a sign of life after a time, again and again, and gives it up after so
many times. That is not done while something sent is unconfirmed: then TCP sends it again, for a
quarter of an hour, unless a time is set for that too (TCP_USER_TIMEOUT, where there is one). But
this also bounds how long a peer that is there may read nothing, so it is not for everybody.
Standard library only.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

UNIX = getattr(socket, "AF_UNIX", None)


@dataclass(frozen=True)
class Keepalive:
    """Seconds: the first question after `idle_s`, the next each `interval_s`, `probes` in all."""

    idle_s: int
    interval_s: int
    probes: int

    @property
    def gives_up_s(self) -> int:
        """After so long without a sign of life."""
        return self.idle_s + self.interval_s * self.probes

    def watch(self, sock: socket.socket) -> None:
        """Ask a silent peer whether it is there. For Unix sockets there is nothing to do."""
        if sock.family == UNIX:
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", self.idle_s),
            ("TCP_KEEPINTVL", self.interval_s),
            ("TCP_KEEPCNT", self.probes),
        ):
            _set(sock, name, value)

    def watch_what_is_sent(self, sock: socket.socket) -> None:
        """Give a peer up as well that does not confirm, or take, what it is sent."""
        if sock.family != UNIX:
            _set(sock, "TCP_USER_TIMEOUT", self.gives_up_s * 1000)


def _set(sock: socket.socket, name: str, value: int) -> None:
    option = getattr(socket, name, None)  # not every system has all of them
    if option is not None:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
