"""One client: a thread that reads what it asks, a thread that writes what it is told.

Theory of operation. The reader turns bytes into messages and messages into calls on the
client's `Session`, and never writes: what it has to say itself it posts to the session, so
that answers keep their order. The writer takes from the session and writes; whichever way a
socket's fault shows, the reader ends the connection. A client that does not read blocks its
own writer, and once enough of its answers are unread its own reader, and nobody else.

The reader always waits in `recv`, so it learns at once of a client that was killed, whatever
its jobs are doing; closing the session then cancels them. An end of stream means that the
client has left, even if it could still read; only after half a message it is told so first.

The reader owns the writer and the socket: it starts and joins the one and closes the other.
The two share the sans-I/O core, of which each uses one direction.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any, cast

from runai import __version__
from runai.errors import RunAIError
from runai.jobs.service import Service
from runai.schema import codec
from runai.schema.dialects import Reply, krita, native, reply_to, understand
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
from runai.schema.requests import Cancel, Command, Convert, GetStatus, Hello, ListModels
from runai.transports.naive import Straight, pace_for
from runai.transports.options import SocketOptions
from runai.wire import connection as wire

RECEIVE_BYTES = 256 * 1024
ON_THE_WAY = (Accepted, Loading, Progress, Preview)
log = logging.getLogger(__name__)


class ClientConnection:
    """A client that has a seat. `start` it once; `join` it after it called `on_end`.

    `on_observer` and `on_end` are called with the connection, on its own thread, when the
    client says that it only looks on, and as the very last thing.
    """

    def __init__(
        self,
        sock: socket.socket,
        service: Service,
        options: SocketOptions,
        on_observer: Callable[[ClientConnection], None],
        on_end: Callable[[ClientConnection], None],
    ) -> None:
        self._sock = sock
        self._service = service
        self._options = options
        self._on_observer = on_observer
        self._on_end = on_end
        self._wire = wire.Connection(
            wire.Role.SERVER, options.packet_size, options.max_message_bytes
        )
        self._ended = threading.Event()
        name = f"client-{sock.fileno()}"
        self._session = service.open_session(name)
        self._reader = threading.Thread(target=self._read, name=f"runai-{name}-reader")
        self._writer = threading.Thread(target=self._write, name=f"runai-{name}-writer")

    def start(self) -> None:
        self._reader.start()

    def finish(self) -> None:
        """The server ends: answer what is open, and close when the client has read it."""
        self._session.finish()

    def abort(self) -> None:
        """End it now, whatever is open or unread."""
        self._ended.set()
        self._session.close()
        with contextlib.suppress(OSError):  # it is closed already
            self._sock.shutdown(socket.SHUT_RDWR)

    def join(self, timeout_s: float | None = None) -> None:
        self._reader.join(timeout_s)

    # The reader.

    def _read(self) -> None:
        try:
            self._writer.start()
            if self._receive_until_end() == wire.CutShort():
                self._writer.join(self._options.write_deadline_s)
        except OSError:
            log.debug("%s is gone.", self._session.name)
        finally:
            self.abort()
            self._writer.join()
            self._sock.close()
            self._on_end(self)

    def _receive_until_end(self) -> wire.WireEvent:
        """The stream's last event."""
        while True:
            data = self._sock.recv(RECEIVE_BYTES)
            if data:
                self._wire.receive_data(data)
            else:
                self._wire.receive_eof()
            while (event := self._wire.next_event()) is not None:
                self._react(event)
                if isinstance(event, wire.Quit | wire.Closed | wire.CutShort):
                    return event

    def _react(self, event: wire.WireEvent) -> None:
        if isinstance(event, wire.Message):
            self._hear(event.body)
        elif isinstance(event, wire.Cancel):
            self._session.cancel_all()
        elif isinstance(event, wire.TooLarge):
            self._refuse(event.error, {}, native.REPLY)
        elif isinstance(event, wire.CutShort):
            self._session.cancel_all()
            self._refuse(event.error, {}, native.REPLY)
            self._session.finish()

    def _hear(self, body: bytes) -> None:
        message: dict[str, Any] = {}
        reply: Reply = native.REPLY
        try:
            message = codec.decode(body, self._service.limits.max_json_depth)
            reply = reply_to(message)
            spoken = understand(message)
            self._obey(spoken.command, spoken.reply)
        except RunAIError as error:
            self._refuse(error, message, reply)
        except Exception as fault:  # a fault of ours: this message's failure, not its client's end
            log.exception("A message could not be handled.")
            ours = RunAIError(f"The message could not be handled: {type(fault).__name__}.")
            self._refuse(ours, message, reply)

    def _obey(self, command: Command, reply: Reply) -> None:
        if isinstance(command, Hello):
            if command.observer:
                self._on_observer(self)
            self._session.post(self._service.hello(self._options.max_message_bytes), reply)
        elif isinstance(command, Cancel):
            # one that is not open (any more) has had, or will have, its last answer
            self._session.cancel(command.id)
        elif isinstance(command, Convert):
            self._service.convert(command, functools.partial(self._session.post, tag=reply))
        elif isinstance(command, ListModels):
            self._session.post(self._service.models(), reply)
        elif isinstance(command, GetStatus):
            self._session.post(self._service.status(), reply)
        else:
            self._session.submit(command, reply)

    def _refuse(self, error: RunAIError, message: dict[str, Any], reply: Reply) -> None:
        said = codec.id_of(message)
        if said is not None and self._session.is_open(said):
            said = None  # it would read as the last answer of the request that has this id
        failed = Failed(id=said, error=ErrorBody.of(error))
        self._session.post(failed, reply)

    # The writer.

    def _write(self) -> None:
        try:
            self._pace = pace_for(self._sock, self._options.packet_size, self._ended)
            self._send(krita.greeting(__version__))
            while (answer := self._session.take()) is not None:
                event, reply = answer[0], cast(Reply, answer[1])
                for body in self._bodies(event, reply):
                    self._send(body)
                if isinstance(event, HelloEvent):
                    self._pace = Straight(self._sock)
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            log.debug("%s cannot be written to any more.", self._session.name)
            self.abort()
        except Exception:  # a fault of ours: a client that is cut off is better than one that waits
            log.exception("An answer could not be written.")
            self.abort()

    def _bodies(self, event: Event, reply: Reply) -> list[bytes]:
        """The event for this client; one that cannot be written becomes a `failed`."""
        try:
            return reply.render(event)
        except RunAIError as error:
            log.error("An answer cannot be written.", exc_info=error)
            if isinstance(event, ON_THE_WAY):
                return []  # its request's last answer is still to come
            asked = event.id if isinstance(event, (*TERMINAL, Converted)) else None
            return reply.render(Failed(id=asked, error=ErrorBody.of(error)))

    def _send(self, body: bytes) -> None:
        self._wire.send_message(body)
        self._pace.write(self._wire.data_to_send())
