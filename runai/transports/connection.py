"""One client: a thread that reads what it asks, a thread that writes what it is told.

Theory of operation. The reader turns bytes into messages, which `conversation` turns into calls
on the client's `Session`, and never writes: what it has to say itself it posts to the session,
so that answers keep their order. The writer takes from the session and writes; whichever way a
socket's fault shows, the reader ends the connection. A client that does not read blocks its
own writer, and once enough of its answers are unread its own reader, and nobody else.

The reader always waits in `recv`, so it learns at once of a client that was killed, whatever
its jobs are doing; closing the session then cancels them. An end of stream means that the
client has left, even if it could still read; only after half a message it is told so first.
After an error (see `streams.breaks`) the session stays parked instead, if the client has named
one. An error shows on one of the two threads, whichever asks the kernel first, while the other
sees an end of stream: so the session is parked in any case, and closed when both have ended and
neither has met one.

A stranger goes through two doors, both on the reader's thread: TLS, where the server speaks it;
then a `hello` with the token, where one is asked for. Until then it counts for nothing, has no
writer, and is neither greeted nor listened to. Where there is no seat left
(`full`) everybody is a stranger, for a moment: who comes back for what was left open, while the
server may still take the broken connection for a client, is let in, and nobody else is. A client
that is sent away, for a wrong token or because it kept the server waiting, is told why before
the connection ends.

The reader owns the writer and the socket: it starts and joins the one and closes the other.
The two share the sans-I/O core, of which each uses one direction.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import threading
import time
from dataclasses import replace
from typing import Protocol, cast

from runai.errors import NotOffered, RunAIError, TooManyConnections, Unauthorized
from runai.jobs.service import Service
from runai.schema import codec
from runai.schema.requests import Hello
from runai.streams.breaks import is_broken
from runai.streams.plain import PlainStream, Stream
from runai.transports.conversation import Conversation
from runai.transports.gate import Gate
from runai.transports.last_words import last_words, linger
from runai.transports.opening import Opening
from runai.transports.options import SocketOptions
from runai.transports.origin import Origin
from runai.transports.patience import Patience
from runai.transports.writer import Writer
from runai.wire import connection as wire

STRANGER_BYTES = 64 * 1024  # a message of somebody who is not let in yet
DECIDED_S = 1.0  # for who has no seat: what it may take to say that it comes back
log = logging.getLogger(__name__)


class House(Protocol):
    """What a server wants to hear of its connections, each on that connection's own thread."""

    def admitted(self, connection: ClientConnection) -> None:
        """It has shown that it may come in; only told where that was asked."""
        ...

    def observes(self, connection: ClientConnection) -> None:
        """It says that it only looks on."""
        ...

    def left(self, connection: ClientConnection) -> None:
        """It has ended; the very last thing."""
        ...


class ClientConnection:
    """One client. `start` it once; `join` it after it `left` the house.

    `full`: why it is sent away unless it comes back, since there is no seat; None: there is one.
    """

    def __init__(
        self,
        sock: socket.socket,
        origin: Origin,
        service: Service,
        options: SocketOptions,
        gate: Gate,
        house: House,
        full: TooManyConnections | None = None,
    ) -> None:
        if full is not None:
            wait_s = min(options.auth_timeout_s, DECIDED_S)
            options = replace(options, auth_timeout_s=wait_s)
        self.origin = origin
        self._sock = sock
        self._stream: Stream = PlainStream(sock)
        self._service = service
        self._options = options
        self._gate = gate
        self._house = house
        self._full = full
        self._asks_token = gate.asks_token and not origin.vouched
        self._asks_first = self._asks_token or full is not None
        self.is_admitted = (gate.is_open or origin.vouched) and full is None
        self._wire = wire.Connection(wire.Role.SERVER, options.packet_size, STRANGER_BYTES)
        self._opening = Opening()
        self._patience = Patience(options, time.monotonic(), admitted=not self._asks_first)
        self._faults: list[int | None] = []
        self._has_left = False  # it said so, or ended its stream
        self.has_seat = full is None
        self._ended = threading.Event()
        name = f"client-{sock.fileno()}"
        self._session = service.open_session(name, self.abort)
        self._conversation = Conversation(
            self._session,
            service,
            options.max_message_bytes,
            on_observer=functools.partial(house.observes, self),
            # not for others: one that reads nothing for long, and cannot come back, would lose all
            on_named=functools.partial(options.keepalive.watch_what_is_sent, sock),
        )
        self._reader = threading.Thread(target=self._read, name=f"runai-{name}-reader")
        self._writer = Writer(
            sock,
            self._session,
            self._wire,
            options.packet_size,
            self._ended,
            count_sent=functools.partial(service.counters.count, "sent_bytes"),
            on_fault=self._cannot_write,
            on_bug=self.abort,
        )

    def start(self) -> None:
        """Raises TooManyConnections if there is no thread to be had."""
        try:
            self._reader.start()
        except RuntimeError:
            self._session.close()
            raise _no_thread() from None
        if self._full is None:
            self._service.counters.count("connections")

    def finish(self) -> None:
        """The server ends: answer what is open, and close when the client has read it."""
        self._session.finish()

    def abort(self) -> None:
        """End it now, whatever is open or unread; what has been taken over goes on elsewhere."""
        self._session.close()
        self._let_go()

    def _let_go(self) -> None:
        """End both threads, and nothing that the client could come back for."""
        self._ended.set()
        self.has_seat = False
        self._session.park()
        self._stream.shut()

    def join(self, timeout_s: float | None = None) -> None:
        self._reader.join(timeout_s)

    # The reader.

    def _read(self) -> None:
        try:
            self._stream = self._gate.secured(self._sock, self._options.auth_timeout_s)
            if not self._asks_first:
                self._admit()
            self._receive_until_end()
        except RunAIError as error:
            self._send_away(error)
        except OSError as error:
            log.debug("%s is gone: %s.", self._session.name, error)
            self._faults.append(error.errno)
        finally:
            self._let_go()
            self._writer.join()
            if self._has_left or not is_broken(self._faults, is_here=self.origin.is_here):
                self._session.close()
            self._stream.close()
            self._house.left(self)

    def _receive_until_end(self) -> None:
        """Until the client has left. Raises a RunAIError that it is to be sent away with."""
        while True:
            data = self._receive()
            self._service.counters.count("received_bytes", len(data))
            if data:
                self._hear_opening(data)
                self._wire.receive_data(data)
            else:
                self._wire.receive_eof()
            del data  # it would be held as long as nothing comes
            whole = False
            while (event := self._wire.next_event()) is not None:
                if isinstance(event, wire.Quit | wire.Closed) or self._is_cut(event):
                    # an end of stream may be our own doing, when writing has failed
                    self._has_left = isinstance(event, wire.Quit) or not self._ended.is_set()
                    return
                self._react(event)
                whole = True
            self._patience.hear(time.monotonic(), whole=whole, midway=self._wire.is_midway)

    def _hear_opening(self, data: bytes) -> None:
        try:
            self._opening.hear(data)
        except NotOffered:
            self._house.observes(self)  # a page is no client whose leaving would end the server
            raise

    def _is_cut(self, event: wire.WireEvent) -> bool:
        """Whether a message has no end because this side broke the connection off."""
        return isinstance(event, wire.CutShort) and self._ended.is_set()

    def _receive(self) -> bytes:
        """What came; waits as long as the client may take, and not past that for who floods."""
        while True:
            left = self._patience.time_left(time.monotonic())
            data = self._stream.recv(left) if left is None or left > 0 else None
            if data is not None:
                return data
            waits_for_us = self._session.is_busy or self._service.is_converting
            if not (self._patience.is_idle and waits_for_us):
                raise self._patience.complaint()
            self._patience.rest(time.monotonic())

    def _react(self, event: wire.WireEvent) -> None:
        if isinstance(event, wire.CutShort):
            raise event.error
        if not self.is_admitted:
            self._come_in(event)
        if isinstance(event, wire.Message):
            self._conversation.hear(event.body)
        elif isinstance(event, wire.Cancel):
            self._session.cancel_all()
        elif isinstance(event, wire.TooLarge):
            self._session.refused(event.error)
            self._conversation.refuse(event.error)

    def _come_in(self, event: wire.WireEvent) -> None:
        """Admit a stranger whose first message is a `hello` with what it takes, and no other."""
        message = codec.decode(event.body) if isinstance(event, wire.Message) else {}
        if message.get("type") != "hello":
            raise self._full or Unauthorized("This server wants a token before anything else.")
        said = cast(Hello, codec.parse_command(message))
        if self._asks_token:
            self._check_token(said.token or "")
        if self._full is not None and not self._service.may_resume(said.session):
            raise self._full
        self._admit()

    def _check_token(self, token: str) -> None:
        try:
            self._gate.check(self.origin.name, token)
        except Unauthorized:
            log.warning("A wrong token came from %s.", self.origin.name)
            self.has_seat = False
            self._ended.wait(self._gate.delay_s(self.origin.name))
            raise

    def _admit(self) -> None:
        try:
            # who must be let in first cannot be the original plugin
            self._writer.start(
                self._stream, over_tcp=not self.origin.vouched, greets=not self._asks_first
            )
        except RuntimeError:
            raise _no_thread() from None
        if not self.has_seat:
            self._service.counters.count("connections")
        self.has_seat = True
        self._patience.admit()
        self._wire.max_message_bytes = self._options.max_message_bytes
        if not self.is_admitted:
            self.is_admitted = True
            self._house.admitted(self)

    def _send_away(self, error: RunAIError) -> None:
        """Say why, if there is still somebody to hear it, and end."""
        if self._full is not None and not self.is_admitted:
            error = self._full  # whatever else there is to say
            self._service.counters.count("connections_refused")
        else:
            self._session.refused(error)
        self.has_seat = False
        if not self._is_client:  # few words, which fit what the system holds for it
            with contextlib.suppress(OSError):
                self._stream.sendall(last_words(error, self._options.packet_size))
                self._stream.end()
        else:
            self._session.cancel_all()
            self._conversation.refuse(error)
            self._session.finish()
            self._writer.join(self._options.write_deadline_s)
        linger(self._stream)

    @property
    def _is_client(self) -> bool:
        """Whether it has come as far as saying something that a client may say."""
        return self._writer.has_begun and self._opening.is_known

    def _cannot_write(self, error: OSError) -> None:
        self._faults.append(error.errno)
        self._let_go()


def _no_thread() -> TooManyConnections:
    return TooManyConnections("The server can start no thread for one more client.")
