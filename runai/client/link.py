"""One connection to a server: a stream, a thread that reads, a thread that writes.

Theory of operation. Whoever asks something registers an inbox and puts the message's bytes
into the writer's queue, both under the lock, so that the order of waiting is the order of
sending. The reader gives each event to the inbox it belongs to: by the request's id; by kind
where there is none (hello, models, status); and a `failed` without an id, with which a server
answers a message that it could not read, to whoever has waited longest for a first answer,
because a server answers messages in their order. When the stream ends, for whatever reason,
every inbox that still waits gets an error: nobody waits for a dead connection. The reader
alone decides that it is dead, so what a server says before it closes is still heard.

Never connects again: `client` makes a new link.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from pydantic import BaseModel

from runai.client.answers import Answers, Inbox
from runai.errors import ConnectionLost, DuplicateId, RunAIError, WireError
from runai.schema import codec
from runai.schema.events import TERMINAL, ErrorBody, Event, Failed, JobEvent
from runai.schema.requests import Cancel, GenerationRequest
from runai.streams.plain import Stream
from runai.wire.connection import Connection, Message, Role, TooLarge
from runai.wire.packets import encode

MAX_ANSWER_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True)
class _Waiting:
    """Who waits for a first answer: to a question of that kind, or to a request."""

    kind: str
    request_id: str | None
    inbox: Inbox

    def is_answered_by(self, event: Event) -> bool:
        if isinstance(event, Failed) and event.id is None:
            return True  # answers come in the order of the questions
        if isinstance(event, JobEvent):
            return self.request_id == event.id
        return self.kind == event.type


class Link:
    """See the module. Takes the connected stream over; `close` joins both threads."""

    def __init__(self, connected: Stream, packet_size: int) -> None:
        self._stream = connected
        self._packet_size = packet_size
        self._wire = Connection(Role.CLIENT, packet_size, MAX_ANSWER_BYTES)
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._lock = threading.Lock()  # guards the four below
        self._unanswered: list[_Waiting] = []  # in the order of sending
        self._open: dict[str, Inbox] = {}
        self._complaint: ErrorBody | None = None  # said by the server to nobody in particular
        self._lost: ErrorBody | None = None
        self._threads = [
            threading.Thread(target=self._read, name="runai-client-reader"),
            threading.Thread(target=self._write, name="runai-client-writer"),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        with self._lock:
            return self._lost is None

    def submit(self, request: GenerationRequest) -> Answers:
        """Send a request. Raises DuplicateId, or ConnectionLost if the link is dead."""
        inbox = Inbox()
        data = self._encode(request)
        with self._lock:
            if request.id in self._open:
                raise DuplicateId(f"The request {request.id!r} is still open.", field="id")
            self._send(data, _Waiting("generate", request.id, inbox))
            self._open[request.id] = inbox
        return Answers(request.id, inbox, self.cancel)

    def cancel(self, request_id: str) -> None:
        """Ask the server to end a request. Takes no lock: safe in a signal handler."""
        self._outgoing.put(self._encode(Cancel(id=request_id)))

    def ask(self, question: BaseModel, kind: str, timeout_s: float | None) -> Event:
        """The answer to a question; None waits as long as the connection lives.

        Raises what the server answers with, or ConnectionLost.
        """
        inbox = Inbox()
        data = self._encode(question)
        with self._lock:
            self._send(data, _Waiting(kind, None, inbox))
        try:
            answer = inbox.get(timeout=timeout_s)
        except Empty:
            raise ConnectionLost(f"The server did not answer within {timeout_s:g} s.") from None
        if isinstance(answer, ErrorBody):
            raise answer.to_exception()
        if isinstance(answer, Failed):
            raise answer.error.to_exception()
        return answer

    def close(self) -> None:
        """End the connection and both threads; open requests get ConnectionLost. Idempotent."""
        with self._lock:
            self._complaint = ErrorBody.of(ConnectionLost("This client has been closed."))
        self._stream.shut()
        for thread in self._threads:
            thread.join()
        self._stream.close()

    # --- sending ---------------------------------------------------------------------

    def _encode(self, message: BaseModel) -> bytes:
        return encode(codec.encode(message), self._packet_size)

    def _send(self, data: bytes, waiting: _Waiting) -> None:
        """With the lock held."""
        if self._lost is not None:
            raise self._lost.to_exception()
        self._unanswered.append(waiting)
        self._outgoing.put(data)

    def _write(self) -> None:
        # a broken connection is for the reader to find
        with contextlib.suppress(OSError):
            while (data := self._outgoing.get()) is not None:
                self._stream.sendall(data)

    # --- receiving -------------------------------------------------------------------

    def _read(self) -> None:
        error: RunAIError = ConnectionLost("The server has closed the connection.")
        try:
            while data := self._stream.recv():
                self._receive(data)
        except OSError as broken:
            error = ConnectionLost(f"The connection broke: {broken.strerror}.")
        except RunAIError as unreadable:
            error = unreadable
        finally:
            self._give_up(ErrorBody.of(error))

    def _receive(self, data: bytes) -> None:
        self._wire.receive_data(data)
        while (event := self._wire.next_event()) is not None:
            if isinstance(event, TooLarge):
                raise event.error
            if isinstance(event, Message):
                self._understand(event.body)

    def _understand(self, body: bytes) -> None:
        """Deliver a message; of kinds unknown here, say of a newer server, nothing is made."""
        try:
            message = codec.decode(body)
            if message.get("type") in codec.EVENT_TYPES:
                self._deliver(codec.parse_event(message))
        except RunAIError as error:
            raise WireError(
                f"The server sent what cannot be understood: {error.message}",
                hint="Use a client and a server of the same version.",
            ) from error

    def _deliver(self, event: Event) -> None:
        with self._lock:
            waiting = self._first_answered_by(event)
            inbox = waiting.inbox if waiting else self._open.get(_id_of(event))
            if isinstance(event, TERMINAL):
                self._open.pop((waiting and waiting.request_id) or _id_of(event), None)
            if inbox is None and isinstance(event, Failed) and event.id is None:
                self._complaint = event.error
        if inbox is not None:
            inbox.put(event)

    def _first_answered_by(self, event: Event) -> _Waiting | None:
        """Who gets a first answer with this event, with the lock held; waits no longer."""
        for waiting in self._unanswered:
            if waiting.is_answered_by(event):
                self._unanswered.remove(waiting)
                return waiting
        return None

    def _give_up(self, error: ErrorBody) -> None:
        """The connection is dead: everybody who waits hears of it, the writer ends."""
        with self._lock:
            self._lost = lost = self._complaint or error
            asking = [waiting.inbox for waiting in self._unanswered if not waiting.request_id]
            inboxes = [*asking, *self._open.values()]
            self._unanswered.clear()
            self._open.clear()
        for inbox in inboxes:
            inbox.put(lost)
        self._stream.shut()
        self._outgoing.put(None)


def _id_of(event: Event) -> str:
    return (event.id if isinstance(event, JobEvent) else None) or ""
