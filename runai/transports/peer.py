"""What the kernel knows of the socket at the other end, where that is on this computer.

Theory of operation. The kernel is asked for one socket by its two addresses (sock_diag, which
`ss` uses); that takes some microseconds. The same figures are in /proc/net/tcp, but printing
that walks the kernel's whole table, which takes milliseconds. No privilege is needed, and
nothing leaves the computer. A socket in another network namespace, a container's say, is
not seen.
Standard library only.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Any

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/tcp.h
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
WITH_TCP_INFO = 1 << 1
ALL_STATES = ANY_COOKIE = 0xFFFFFFFF
TCP_INFO_KIND = 2
HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
REQUEST = struct.Struct("=BBBxI")  # family, protocol, extensions, states
PORTS = struct.Struct("!HH")  # the socket's own, and its peer's
REST = struct.Struct("=III")  # interface, cookie
UNREAD = struct.Struct("=I")
UNREAD_AT = HEADER.size + 4 + 48 + 4
ATTRIBUTE = struct.Struct("=HH")  # length, kind
ATTRIBUTES_AT = HEADER.size + 72
RECEIVED = struct.Struct("=Q")
RECEIVED_AT = 128

Address = tuple[Any, ...]  # host, port and whatever the family adds


@dataclass(frozen=True)
class Peer:
    """Bytes: `unread` of its program, taken before `received`, which is all that ever came."""

    unread: int
    received: int


def look(sock: socket.socket) -> Peer | None:
    """The state of a connected socket's peer; None if it cannot be seen, or is gone.

    Raises OSError when the connection is broken.
    """
    answer = _ask(sock.family, sock.getpeername(), sock.getsockname())
    if answer is None:
        return None
    received = _received(answer)
    if received is None:  # the peer is no more than a remainder of a closed connection
        return None
    return Peer(int(UNREAD.unpack_from(answer, UNREAD_AT)[0]), received)


def can_look(listener: socket.socket) -> bool:
    """Whether the kernel answers such questions here: asked about a listening socket itself."""
    own = listener.getsockname()
    return _ask(listener.family, own, (own[0], 1)) is not None


def _ask(family: int, own: Address, peer: Address) -> bytes | None:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as kernel:
            kernel.sendto(_question(family, own, peer), (0, 0))
            answer = kernel.recv(8192)
    except OSError:  # a sandbox without this kind of socket
        return None
    kind = HEADER.unpack_from(answer)[1]
    # anything else is an error: no such socket, or nobody there to ask
    return answer if kind == SOCK_DIAG_BY_FAMILY else None


def _question(family: int, own: Address, peer: Address) -> bytes:
    body = (
        REQUEST.pack(family, socket.IPPROTO_TCP, WITH_TCP_INFO, ALL_STATES)
        + PORTS.pack(own[1], peer[1])
        + b"".join(socket.inet_pton(family, end[0]).ljust(16, b"\0") for end in (own, peer))
        + REST.pack(0, ANY_COOKIE, ANY_COOKIE)
    )
    length = HEADER.size + len(body)
    return HEADER.pack(length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0) + body


def _received(answer: bytes) -> int | None:
    at = ATTRIBUTES_AT
    while at + ATTRIBUTE.size <= len(answer):
        length, kind = ATTRIBUTE.unpack_from(answer, at)
        if kind == TCP_INFO_KIND:
            return int(RECEIVED.unpack_from(answer, at + ATTRIBUTE.size + RECEIVED_AT)[0])
        at += length + -length % 4
    return None
