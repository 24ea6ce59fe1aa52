"""How a socket server is to behave."""

from __future__ import annotations

from dataclasses import dataclass

from runai.streams.keepalive import Keepalive
from runai.wire.connection import DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_PACKET_SIZE

KEEPALIVE = Keepalive(idle_s=60, interval_s=10, probes=6)


@dataclass(frozen=True)
class SocketOptions:
    """Sizes in bytes, times in seconds.

    `max_connections_per_peer`: see `origin`. `keep_alive`: go on when the last client has left.
    `idle_exit_s`: end when nobody was there so long, and not before; None: see `keep_alive`.
    `first_client_timeout_s`: end if nobody came by then; None waits for ever. What a client may
    take: `auth_timeout_s` to agree on TLS, and to show its token; `message_timeout_s` to send a
    message; `idle_timeout_s` between two, while none of its requests is open, 0: for ever;
    `write_deadline_s`, at the end, to read its last answers. `keepalive`: when one of whom nothing
    is heard is given up. Its two minutes are long, for a client that cannot come back loses
    its requests by a shorter break of the network than that.
    """

    packet_size: int = DEFAULT_PACKET_SIZE
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    max_connections: int = 32
    max_connections_per_peer: int = 32
    keep_alive: bool = False
    idle_exit_s: float | None = None
    first_client_timeout_s: float | None = None
    auth_timeout_s: float = 10.0
    message_timeout_s: float = 60.0
    idle_timeout_s: float = 0.0
    write_deadline_s: float = 5.0
    keepalive: Keepalive = KEEPALIVE
