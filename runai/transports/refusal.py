"""A connection for which there is no seat: it is told so, and closed.

Closing at once could destroy the message on its way, because a socket closed with unread bytes
resets its peer. So what the newcomer sends is read and dropped until it leaves, for a while.
The message is sent at once and whole: it is short, and the first on this connection, so
even a naive reader gets it packet by packet.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

from runai.errors import RunAIError
from runai.schema import codec
from runai.schema.events import ErrorBody, Failed
from runai.streams.plain import PlainStream, Stream
from runai.transports.gate import Gate
from runai.wire.packets import encode

LINGER_S = 2.0
log = logging.getLogger(__name__)


def last_words(error: RunAIError, packet_size: int) -> bytes:
    """What is said to a client before it is left, in packets."""
    return encode(codec.encode(Failed(error=ErrorBody.of(error))), packet_size)


def linger(stream: Stream) -> None:
    """Read and drop what a client that was told to go still sends, for a while."""
    until = time.monotonic() + LINGER_S
    with contextlib.suppress(OSError):
        while (left := until - time.monotonic()) > 0 and stream.recv(left):
            pass


class Refusal:
    """Tells a client why it is not served. `on_end` is called last, on the own thread."""

    def __init__(
        self,
        sock: socket.socket,
        error: RunAIError,
        packet_size: int,
        gate: Gate,
        on_end: Callable[[Refusal], None],
    ) -> None:
        self._sock = sock
        self._gate = gate
        self._stream: Stream = PlainStream(sock)
        self._last_words = last_words(error, packet_size)
        self._on_end = on_end
        self._thread = threading.Thread(target=self._run, name="runai-refusal")

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """What is to be said is said already."""

    def abort(self) -> None:
        """End it now."""
        self._stream.shut()

    def join(self, timeout_s: float | None = None) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._stream = self._gate.secured(self._sock, LINGER_S)
            self._stream.sendall(self._last_words)
            self._stream.end()
            linger(self._stream)
        except (OSError, RunAIError):
            log.debug("A refused client was not there to be told.")
        finally:
            self._stream.close()
            self._on_end(self)
