"""What is said to a client before it is left, and the time it has to hear it.

Closing at once could destroy the message on its way, because a socket closed with unread bytes
resets its peer. So what the client sends is read and dropped until it leaves, for a while.
"""

from __future__ import annotations

import contextlib
import time

from runai.errors import RunAIError
from runai.schema import codec
from runai.schema.events import ErrorBody, Failed
from runai.streams.plain import Stream
from runai.wire.packets import encode

LINGER_S = 2.0


def last_words(error: RunAIError, packet_size: int) -> bytes:
    """What is said, in packets: few, so that also a naive reader gets one at a time."""
    return encode(codec.encode(Failed(error=ErrorBody.of(error))), packet_size)


def linger(stream: Stream) -> None:
    """Read and drop what a client that was told to go still sends, for a while."""
    until = time.monotonic() + LINGER_S
    with contextlib.suppress(OSError):
        while (left := until - time.monotonic()) > 0 and stream.recv(left):
            pass
