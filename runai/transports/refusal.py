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
from runai.wire.packets import encode

LINGER_S = 2.0
log = logging.getLogger(__name__)


class Refusal:
    """Tells a client why it is not served. `on_end` is called last, on the own thread."""

    def __init__(
        self,
        sock: socket.socket,
        error: RunAIError,
        packet_size: int,
        on_end: Callable[[Refusal], None],
    ) -> None:
        self._sock = sock
        self._last_words = encode(codec.encode(Failed(error=ErrorBody.of(error))), packet_size)
        self._on_end = on_end
        self._thread = threading.Thread(target=self._run, name="runai-refusal")

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """What is to be said is said already."""

    def abort(self) -> None:
        """End it now."""
        with contextlib.suppress(OSError):  # it is closed already
            self._sock.shutdown(socket.SHUT_RDWR)

    def join(self, timeout_s: float | None = None) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._sock.settimeout(LINGER_S)
            self._sock.sendall(self._last_words)
            self._sock.shutdown(socket.SHUT_WR)
            until = time.monotonic() + LINGER_S
            while self._sock.recv(65536) and time.monotonic() < until:
                pass
        except OSError:  # among them the time-out
            log.debug("A refused client was not there to be told.")
        finally:
            self._sock.close()
            self._on_end(self)
