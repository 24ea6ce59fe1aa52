"""One connection to a server: a stream, a thread that reads, a thread that writes.

Theory of operation. Whoever asks something gets an inbox, and the message's bytes go into the
writer's queue, both under the lock, so that the order of waiting is the order of sending. The
reader gives each event to the inbox that `books` finds for it. When the stream ends every inbox
that still waits gets an error: nobody waits for a dead connection. The reader alone decides that
it is dead, so what a server says before it closes is still heard.

Where the server keeps what is open, each last answer is confirmed, and when the network breaks
the requests' inboxes are `Kept` for another link, which goes on with those that the server still
has. Until the server has said which these are, all of them are the new link's, so that one that
breaks before that leaves them to the next. What came twice - `accepted`, or a last answer whose
confirmation was lost - is dropped.

Never connects again: `client` makes a new link.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

from pydantic import BaseModel

from runai.client.answers import Answers
from runai.client.books import Books
from runai.client.kept import NOTHING, Kept
from runai.errors import ConnectionLost, RunAIError, WireError
from runai.schema import codec
from runai.schema.events import (
    TERMINAL,
    Accepted,
    ErrorBody,
    Event,
    Failed,
    HelloEvent,
)
from runai.schema.requests import Cancel, GenerationRequest, Received
from runai.streams.breaks import is_broken
from runai.streams.keepalive import Keepalive
from runai.streams.plain import Stream
from runai.wire.connection import Connection, Message, Role, TooLarge
from runai.wire.packets import encode

FAREWELL_S = 1.0
MAX_HELLO_BYTES = 256 * 1024  # of answers before it is known what answers
MAX_ANSWER_BYTES = 1024 * 1024 * 1024
# a silent server is given up after 25 s: where it keeps what is open, little is lost by that
KEEPALIVE = Keepalive(idle_s=10, interval_s=5, probes=3)


class Link:
    """See the module. Takes the connected stream over; `close` joins both threads.

    `on_end`: called on the reader's thread when the connection has ended while requests are open,
    before that shows, with whether the network broke and the server keeps them; true if somebody
    will take over what is `kept`. None: nobody would.
    """

    def __init__(
        self,
        connected: Stream,
        packet_size: int,
        on_end: Callable[[Link, bool], bool] | None = None,
        kept: Kept = NOTHING,
        keepalive: Keepalive = KEEPALIVE,
    ) -> None:
        self._stream = connected
        self._packet_size = packet_size
        self._on_end = on_end
        self._keepalive = keepalive
        self.resume_s = 0.0  # how long the server keeps what is open
        self._is_here = connected.is_here
        self._faults: list[tuple[int | None, str]] = []  # of either thread: number, words
        self._wire = Connection(Role.CLIENT, packet_size, MAX_HELLO_BYTES)
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._lock = threading.Lock()  # guards the four below
        self._books = Books(kept)
        self._is_left = False
        self._complaint: ErrorBody | None = None  # said by the server to nobody in particular
        self._lost: ErrorBody | None = None
        self._writer = threading.Thread(target=self._write, name="runai-client-writer")
        self._reader = threading.Thread(target=self._read, name="runai-client-reader")
        self._start()

    def _start(self) -> None:
        """Raises ConnectionLost if there are no threads to be had."""
        try:
            self._writer.start()
            self._reader.start()
        except RuntimeError:
            self._outgoing.put(None)  # for the writer, if there is one
            if self._writer.ident is not None:
                self._writer.join()
            self._stream.close()
            raise ConnectionLost("No more threads can be started here.") from None

    @property
    def is_alive(self) -> bool:
        with self._lock:
            return self._lost is None

    @property
    def is_left(self) -> bool:
        """Whether it has ended, or is about to, with requests open."""
        with self._lock:
            return self._is_left

    def submit(self, request: GenerationRequest, cancel: Callable[[str], None]) -> Answers:
        """Send a request. Raises DuplicateId, or ConnectionLost if the link is dead.

        `cancel`: ends a request on whichever link it is by then.
        """
        data = self._encode(request)
        with self._lock:
            self._check_alive()
            inbox = self._books.add_request(request.id)
            self._outgoing.put(data)
        return Answers(request.id, inbox, cancel)

    def cancel(self, request_id: str) -> None:
        """Ask the server to end a request. Takes no lock: safe in a signal handler."""
        inbox = self._books.open.get(request_id)
        if inbox is not None:
            inbox.is_canceled = True  # before it is sent: this link may be dead
        self._outgoing.put(self._encode(Cancel(id=request_id)))

    def cancel_again(self) -> None:
        """Ask once more for the ends that were asked for while there was no connection."""
        with self._lock:  # as long as it is held, no other request has one of these ids
            self._cancel_all(self._books.canceled)

    @property
    def kept(self) -> Kept:
        """What another link may go on with; of a dead one."""
        with self._lock:
            return self._books.kept

    def ask(self, question: BaseModel, kind: str, timeout_s: float | None) -> Event:
        """The answer to a question; None waits as long as the connection lives.

        Raises what the server answers with, or ConnectionLost.
        """
        data = self._encode(question)
        with self._lock:
            self._check_alive()
            inbox = self._books.add_question(kind)
            self._outgoing.put(data)
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
        self._outgoing.put(None)
        self._writer.join(FAREWELL_S)  # what was confirmed last is to arrive
        self._stream.shut()
        self._writer.join()
        self._reader.join()
        self._stream.close()

    # --- sending ---------------------------------------------------------------------

    def _encode(self, message: BaseModel) -> bytes:
        return encode(codec.encode(message), self._packet_size)

    def _check_alive(self) -> None:
        """With the lock held."""
        if self._lost is not None:
            raise self._lost.to_exception()

    def _cancel_all(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            self._outgoing.put(self._encode(Cancel(id=request_id)))

    def _write(self) -> None:
        try:
            while (data := self._outgoing.get()) is not None:
                self._stream.sendall(data)
        except OSError as broken:  # what it means is for the reader to find
            self._faults.append((broken.errno, broken.strerror or str(broken)))

    # --- receiving -------------------------------------------------------------------

    def _read(self) -> None:
        error: RunAIError | None = None
        try:
            while data := self._stream.recv():
                self._receive(data)
        except OSError as broken:
            self._faults.insert(0, (broken.errno, broken.strerror or str(broken)))
        except RunAIError as unreadable:
            error = unreadable
        finally:
            self._give_up(error)

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
        if isinstance(event, HelloEvent):
            self._wire.max_message_bytes = MAX_ANSWER_BYTES
            self._go_on(event)
        with self._lock:
            inbox = self._books.enter(event)
            if inbox is None and isinstance(event, Failed) and event.id is None:
                self._complaint = event.error
        if self.resume_s and isinstance(event, TERMINAL) and event.id is not None:
            # before it is handed out: the id may be used again at once
            self._outgoing.put(self._encode(Received(id=event.id)))
        if inbox is None or (isinstance(event, Accepted) and inbox.is_answered):
            return
        inbox.is_answered = True
        inbox.put(event)

    def _go_on(self, welcome: HelloEvent) -> None:
        """With what was kept of a link before this one, as far as the server still has it."""
        if self._on_end is not None:
            self.resume_s = welcome.capabilities.resume_s
        if self.resume_s:
            self._stream.watch(self._keepalive)
        with self._lock:
            self._cancel_all(self._books.go_on(welcome.open))

    def _give_up(self, error: RunAIError | None) -> None:
        """The connection is dead: everybody who waits hears of it, the writer ends."""
        self._stream.shut()
        self._outgoing.put(None)
        self._writer.join()  # the fault may have shown there
        with self._lock:
            lost = self._complaint or ErrorBody.of(error or self._what_broke())
            broke = error is None and self._complaint is None and self._has_broken()
            self._is_left = is_left = bool(self._books.open)
        taken_over = is_left and self._on_end is not None and self._on_end(self, broke)
        with self._lock:
            self._lost = lost
            self._books.close(lost, keep_requests=taken_over)

    def _has_broken(self) -> bool:
        """Whether the network has, where the server keeps what is open."""
        numbers = [number for number, _ in self._faults]
        return bool(self.resume_s) and is_broken(numbers, is_here=self._is_here)

    def _what_broke(self) -> ConnectionLost:
        if not self._faults:
            return ConnectionLost("The server has closed the connection.")
        return ConnectionLost(f"The connection broke: {self._faults[0][1]}.")
