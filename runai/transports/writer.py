"""What one client is told: a thread that takes its session's answers and writes them.

Rules: it writes, and nobody else does once it has begun; it does not read and does not close. A
fault of the socket ends the connection by way of the reader: see `connection`. An answer that
cannot be written becomes a `failed`, so that its request has its last answer all the same.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from typing import cast

from runai import __version__
from runai.errors import RunAIError
from runai.jobs.session import Session
from runai.schema.dialects import Reply, krita
from runai.schema.events import (
    TERMINAL,
    Accepted,
    Converted,
    ErrorBody,
    Event,
    Failed,
    HelloEvent,
    Loading,
    Preview,
    Progress,
)
from runai.streams.plain import PlainStream, Stream
from runai.transports.naive import Pace, Straight, pace_for, set_nagle
from runai.wire import connection as wire

ON_THE_WAY = (Accepted, Loading, Progress, Preview)
log = logging.getLogger(__name__)


class Writer:
    """Of one connection. `start` it once, with the stream that the connection became.

    `ended`: set when the connection is of no use any more. `count_sent`: is told how many bytes
    were written. `on_fault`: the socket's; `on_bug`: ours. Both on the own thread.
    """

    def __init__(
        self,
        sock: socket.socket,
        session: Session,
        core: wire.Connection,
        packet_size: int,
        ended: threading.Event,
        count_sent: Callable[[int], None],
        on_fault: Callable[[OSError], None],
        on_bug: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._session = session
        self._wire = core
        self._packet_size = packet_size
        self._ended = ended
        self._count_sent = count_sent
        self._on_fault = on_fault
        self._on_bug = on_bug
        self._thread = threading.Thread(target=self._write, name=f"runai-{session.name}-writer")

    def start(self, stream: Stream, *, over_tcp: bool, greets: bool) -> None:
        """Raises RuntimeError if there is no thread to be had. `greets`: as the original does."""
        self._stream = stream
        self._over_tcp = over_tcp
        self._greets = greets
        self._thread.start()

    @property
    def has_begun(self) -> bool:
        return self._thread.ident is not None

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for it to end, if it has ever begun."""
        if self.has_begun:
            self._thread.join(timeout_s)

    def _write(self) -> None:
        try:
            self._pace = self._first_pace()
            if self._greets:
                self._send(krita.greeting(__version__))
            while (answer := self._session.take()) is not None:
                event, reply = answer[0], cast(Reply, answer[1])
                for body in _bodies(event, reply):
                    self._send(body)
                if isinstance(event, HelloEvent):
                    self._pace = self._proper_pace()
            self._stream.end()
        except OSError as error:
            log.debug("%s cannot be written to any more: %s.", self._session.name, error)
            self._on_fault(error)
        except Exception:  # a fault of ours: a client that is cut off is better than one that waits
            log.exception("An answer could not be written.")
            self._on_bug()

    def _first_pace(self) -> Pace:
        """As a naive reader needs it, which there can only be over plain TCP."""
        if isinstance(self._stream, PlainStream) and self._over_tcp:
            return pace_for(self._sock, self._packet_size, self._ended)
        return self._proper_pace()

    def _proper_pace(self) -> Pace:
        """For a client that reads the stream as one."""
        if self._over_tcp:
            set_nagle(self._sock, False)
        return Straight(self._stream)

    def _send(self, body: bytes) -> None:
        self._wire.send_message(body)
        pieces = self._wire.data_to_send()
        self._pace.write(pieces)
        self._count_sent(sum(map(len, pieces)))


def _bodies(event: Event, reply: Reply) -> list[bytes]:
    """The event for this client; one that cannot be written becomes a `failed`."""
    try:
        return reply.render(event)
    except RunAIError as error:
        log.error("An answer cannot be written.", exc_info=error)
        if isinstance(event, ON_THE_WAY):
            return []  # its request's last answer is still to come
        asked = event.id if isinstance(event, (*TERMINAL, Converted)) else None
        return reply.render(Failed(id=asked, error=ErrorBody.of(error)))
