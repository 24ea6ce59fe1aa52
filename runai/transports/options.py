"""How a socket server is to behave."""

from __future__ import annotations

from dataclasses import dataclass

from runai.wire.connection import DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_PACKET_SIZE


@dataclass(frozen=True)
class SocketOptions:
    """Sizes in bytes, times in seconds.

    `keep_alive`: go on when the last client has left. `first_client_timeout_s`: end if nobody
    came by then; None waits for ever. `write_deadline_s`: what clients may take, at the end, to
    read their last answers.
    """

    packet_size: int = DEFAULT_PACKET_SIZE
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    max_connections: int = 32
    keep_alive: bool = False
    first_client_timeout_s: float | None = None
    write_deadline_s: float = 5.0
