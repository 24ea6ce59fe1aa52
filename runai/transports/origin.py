"""Where a connection comes from: the unit in which strangers are counted and slowed down.

An origin is an IPv4 address, a network of 64 bits in IPv6 (one customer has at least that), all
programs of this computer over TCP, or one of its users over a Unix socket. There the kernel
vouches for the user, so no token is asked for, and only the server's own user and root may
come in: the socket's mode says so already, this holds where somebody changed it.
Standard library only.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from dataclasses import dataclass

from runai.errors import Unauthorized

CREDENTIALS = struct.Struct("3i")  # process, user, group: struct ucred of unix(7)
NETWORK_BITS = 64
HERE = "this computer"


@dataclass(frozen=True)
class Origin:
    """`name`: equal for connections that count as one peer's. `vouched`: by the kernel."""

    name: str
    vouched: bool = False

    @property
    def is_here(self) -> bool:
        """Whether no network lies between."""
        return self.vouched or self.name == HERE


def origin_of(sock: socket.socket) -> Origin:
    """Of an accepted connection. Raises Unauthorized for another user's, OSError if it is gone."""
    if sock.family == getattr(socket, "AF_UNIX", None):
        return _user_of(sock)
    address = ipaddress.ip_address(sock.getpeername()[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_loopback:
        return Origin(HERE)
    if isinstance(address, ipaddress.IPv6Address):
        return Origin(str(ipaddress.ip_network((address, NETWORK_BITS), strict=False)))
    return Origin(str(address))


def _user_of(sock: socket.socket) -> Origin:
    if not hasattr(socket, "SO_PEERCRED"):  # then the socket's mode is all there is
        return Origin("a user of this computer", vouched=True)
    told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _, user, _ = CREDENTIALS.unpack(told)
    if user not in (0, os.geteuid()):
        raise Unauthorized(
            f"This server is for the user {os.geteuid()} of this computer, not for {user}.",
            hint="Run the client as the user who runs the server.",
        )
    return Origin(f"user {user}", vouched=True)
